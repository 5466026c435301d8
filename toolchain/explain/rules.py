"""What comes back through each op: the gradient, or what a method of explanation makes of it.

A rule has the signature of `gradient.pulled_back`, and leaves to it every op where its method is the gradient.
"""

from __future__ import annotations

import onnx_ir as ir

from toolchain.compress.gradient import Cotangents, pulled_back
from toolchain.ops.table import Flow, find
from toolchain.ops.tape import Tape


def rectifies(node: ir.Node) -> bool:
    """Whether an op is a rectifier, such as ReLU or a clip from 0 to 6."""
    entry = find(node)
    return entry is not None and entry.lrp is Flow.RECTIFIES


def deconvolved(g: Tape, node: ir.Node, copy: ir.Node, dys: Cotangents) -> Cotangents:
    """At a rectifier what comes back is rectified, wherever the unit was off (Zeiler & Fergus 2014, sec. 2.1)."""
    if not rectifies(node):
        return pulled_back(g, node, copy, dys)
    (dy,) = dys
    return [g.op("Relu", dy), *[None] * (len(node.inputs) - 1)]


def guided(g: Tape, node: ir.Node, copy: ir.Node, dys: Cotangents) -> Cotangents:
    """A rectifier passes what is positive, where the unit was on (Springenberg et al. 2015, fig. 1)."""
    if rectifies(node):
        dys = [None if dy is None else g.op("Relu", dy) for dy in dys]
    return pulled_back(g, node, copy, dys)

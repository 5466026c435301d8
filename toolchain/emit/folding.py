"""Words that put an op into the op before it: activations, and scales and shifts into weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from toolchain.emit.views import ACTIVATION, CHANNEL_AXIS, Operation, Tensor, View, hold, parameters
from toolchain.emit.windows import Windows

FUSES = {
    "CONV_2D",
    "DEPTHWISE_CONV_2D",
    "CONV_3D",
    "FULLY_CONNECTED",
    "ADD",
    "SUB",
    "MUL",
    "DIV",
    "MAX_POOL_2D",
    "AVERAGE_POOL_2D",
}
KEEPS_SIGN = {"MAX_POOL_2D", "AVERAGE_POOL_2D", "CONCATENATION", "RESHAPE", "TRANSPOSE", "PAD", "GATHER"}


class Folding(Windows):
    """What is folded into the weights before it."""

    def activation(self, node: ir.Node, kind: str) -> None:
        """RELU or RELU6, inside the op that makes its input where nothing else reads that."""
        view = self.input(node.inputs[0])
        made = view.tensor.producer
        if made is not None and made.code in FUSES and ACTIVATION not in made.options and self.is_private(view.tensor):
            made.options[ACTIVATION] = kind
        else:
            view = self.op(kind, view)
        self.give(node.outputs[0], view)

    def affine(self, x: ir.Value | None, scale: NDArray[Any] | None, shift: NDArray[Any] | None) -> View:
        """scale·x + shift, both broadcasting to x; inside the weights that make x, if nothing else reads it."""
        view = self.input(x)
        made = self.uncut(view.tensor)
        factor, term = (None if p is None else self.beside(p, view) for p in (scale, shift))
        fits = all(p is None or p.size == p.shape[-1] for p in (factor, term)) and self.is_private(view.tensor)
        if made is not None and made.code in CHANNEL_AXIS and ACTIVATION not in made.options and fits:
            absorb(made, factor, term)
            return view
        if scale is not None:
            view = self.elementwise("MUL", view, scale)
        return view if shift is None else self.elementwise("ADD", view, shift)

    def uncut(self, tensor: Tensor) -> Operation | None:
        """What makes a value, before its border was cut off: a factor for each channel may go there."""
        made = tensor.producer
        if made is None or made.code != "SLICE" or made.output.shape[-1] != made.inputs[0].shape[-1]:
            return made
        return self.uncut(made.inputs[0]) if made.inputs[0].readers == 1 and not made.inputs[0].values else made

    def is_nonnegative(self, view: View) -> bool:
        """Whether a value is known to be at least 0: then 0 pads a maximum as well as −∞ does."""
        made = view.tensor.producer
        if made is None:
            return False
        if made.code in ("RELU", "RELU6", "LOGISTIC") or ACTIVATION in made.options:
            return True
        known = (self.is_nonnegative(replace(view, tensor=t)) for t in made.inputs if t.array is None)
        return made.code in KEEPS_SIGN and all(known)


def absorb(made: Operation, factor: NDArray[Any] | None, term: NDArray[Any] | None) -> None:
    """Fold y ↦ factor·y + term into the weights and the bias of the op that makes y."""
    weights, bias = parameters(made)
    bias = bias.astype(np.float64)
    if factor is not None:
        factor = factor.astype(np.float64).reshape(-1)
        weights, bias = weights * factor.reshape(-1, *[1] * (weights.ndim - 1)), bias * factor
    hold(made, weights, bias if term is None else bias + term.reshape(-1))

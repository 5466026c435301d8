"""Batch normalisations merged into the layers of weights before them, as relevance rules ask for."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from toolchain.model import Model, parameter
from toolchain.ops.table import argument, attribute, constant, dims, find, laid, weights_of


def merged_norms(model: Model) -> Model:
    """The same network with γ(Wx + b − μ)/√(σ² + ε) + β as one layer, wherever nothing else reads that layer."""
    clone = model.ir.clone()
    for norm in list(clone.graph):
        layer = None if find(norm) is None or norm.op_type != "BatchNormalization" else mergeable(norm)
        if layer is not None:
            merge(clone.graph, layer, norm)
    return model.with_ir(clone)


def mergeable(norm: ir.Node) -> ir.Node | None:
    """The layer with constant weights that a norm alone reads, or None."""
    x = norm.inputs[0]
    layer = None if x is None else x.producer()
    entry = None if layer is None else find(layer)
    if layer is None or x is None or entry is None or len(x.uses()) != 1 or x.is_graph_output():
        return None
    weights = weights_of(layer)
    if weights is None or 2 not in (entry.learns or ()):  # a bias has no place in a MatMul
        return None
    is_scaled = attribute(layer, "alpha", 1.0) != 1.0 or attribute(layer, "beta", 1.0) != 1.0
    bias = argument(layer, 2)
    is_known = all(constant(v) is not None for v in (layer.inputs[1], *norm.inputs[1:]))
    is_known &= bias is None or constant(bias) is not None
    is_whole = is_known and dims(layer.inputs[1])[weights.makes] == dims(norm.inputs[1])[0]  # and not of one group
    return layer if is_whole and not (is_scaled or attribute(norm, "training_mode", 0)) else None


def merge(graph: ir.Graph, layer: ir.Node, norm: ir.Node) -> None:
    """Scale and shift the layer, which then makes what the norm made."""
    scale, shift, mean, variance = (np.asarray(constant(v), np.float64) for v in norm.inputs[1:])
    weights, bias = np.asarray(constant(layer.inputs[1]), np.float64), constant(argument(layer, 2))
    factor = scale / np.sqrt(variance + attribute(norm, "epsilon", 1e-5))
    along = [1] * weights.ndim
    along[laid(layer).makes] = -1
    term = ((0 if bias is None else bias.astype(np.float64)) - mean) * factor + shift
    x, y = layer.outputs[0], norm.outputs[0]
    made = []
    for kind, array in (("weight", weights * factor.reshape(along)), ("bias", term)):
        held = parameter(f"jettison/merged/{kind}/{y.name}", ir.tensor(array.astype(np.float32)))
        graph.initializers[str(held.name)] = held
        made.append(held)
    name = y.name
    ir.convenience.replace_all_uses_with(y, x, replace_graph_outputs=True)
    graph.remove(norm, safe=True)
    x.name = name
    merged = ir.Node("", layer.op_type, [layer.inputs[0], *made], layer.attributes.values(), name=layer.name)
    merged.outputs[0].name, merged.outputs[0].shape, merged.outputs[0].type = name, x.shape, x.type
    ir.convenience.replace_all_uses_with(x, merged.outputs[0], replace_graph_outputs=True)
    graph.insert_before(layer, merged)
    graph.remove(layer, safe=True)

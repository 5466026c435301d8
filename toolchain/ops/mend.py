"""What `resize` writes with: sizes and indices that an op was told, as they are after a removal."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike, NDArray

from toolchain.plain import Names, parameter

Ints = NDArray[np.int64]


def places(kept: NDArray[np.bool_]) -> Ints:
    """Where each kept position of an axis lies once the others are gone, [size]."""
    return np.cumsum(kept) - 1


def rewrite(node: ir.Node, i: int, numbers: ArrayLike) -> None:
    """Give a node these whole numbers as its input i; other readers of the old ones keep them."""
    node.resize_inputs(max(len(node.inputs), i + 1))
    old, graph, array = node.inputs[i], node.graph, np.asarray(numbers)
    assert isinstance(graph, ir.Graph)
    if old is not None and old.const_value is not None:
        array = array.astype(old.const_value.dtype.numpy())
        if len(old.uses()) == 1:
            old.const_value, old.shape = ir.tensor(array, name=old.name), ir.Shape(array.shape)
            return
    stem = f"{node.outputs[0].name}.sizes" if old is None else f"{old.name}.{node.outputs[0].name}"
    new = parameter(Names(graph).fresh(stem), array)
    graph.initializers[str(new.name)] = new
    node.replace_input_with(i, new)


def held_bytes(name: str, count: int) -> int:
    """Bytes that a file spends on this many new whole numbers and the input that reads them, at most."""
    return 8 * count + 2 * len(name) + 13

"""Everything the toolchain knows about ONNX ops: one op, one entry in OPS; importing this package fills the table."""

from toolchain.ops import (
    activation,
    arithmetic,
    contraction,
    einsum,
    normalisation,
    pooling,
    recurrent,
    reduction,
    shape,
)
from toolchain.ops.table import OPS, Op, attribute, constant, dims

__all__ = [
    "OPS",
    "Op",
    "activation",
    "arithmetic",
    "attribute",
    "constant",
    "contraction",
    "dims",
    "einsum",
    "normalisation",
    "pooling",
    "recurrent",
    "reduction",
    "shape",
]

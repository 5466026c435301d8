"""Everything the toolchain knows about ONNX ops: one op, one entry in OPS; importing this package fills the table."""

from toolchain.ops import (
    activation,
    arithmetic,
    condition,
    contraction,
    einsum,
    indexing,
    normalisation,
    pooling,
    recurrent,
    reduction,
    resampling,
    shape,
)
from toolchain.ops.table import OPS, Op, attribute, constant, dims

__all__ = [
    "OPS",
    "Op",
    "activation",
    "arithmetic",
    "attribute",
    "condition",
    "constant",
    "contraction",
    "dims",
    "einsum",
    "indexing",
    "normalisation",
    "pooling",
    "recurrent",
    "reduction",
    "resampling",
    "shape",
]

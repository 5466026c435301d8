"""Ops that trade channels for space, and resize space."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from toolchain.inference import evaluate
from toolchain.ops.mend import rewrite
from toolchain.ops.table import Keep, argument, attribute, constant, dims, linear, op, operand
from toolchain.ops.tape import Tape
from toolchain.ops.units import Ids, Units


# ---- DepthToSpace, SpaceToDepth ------------------------------------------------------------------------------------
def in_blocks(n: ir.Node, deep: Ids) -> Ids:
    """Ids of deep channels as [places of a block, channels]."""
    places = attribute(n, "blocksize") ** 2
    return deep.reshape(-1, places).T if attribute(n, "mode", "DCR") == "CRD" else deep.reshape(places, -1)


def block_channels(n: ir.Node, u: Units) -> None:
    """A shallow channel is the deep channels of all places of its block."""
    x, y = operand(n, 0), n.outputs[0]
    deep, shallow = (x, y) if n.op_type == "DepthToSpace" else (y, x)
    u.tie(u[x, 0], u[y, 0])
    blocks = in_blocks(n, u[deep, 1])
    u.tie(blocks, np.broadcast_to(u[shallow, 1], blocks.shape))


def todepth(g: Tape, n: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
    """Every block back into its channels."""
    size, (_, c, h, w) = attribute(n, "blocksize"), dims(operand(n, 0))
    split = [-1, c // size**2, h, size, w, size]
    order = [0, 1, 3, 5, 2, 4] if attribute(n, "mode", "DCR") == "CRD" else [0, 3, 5, 1, 2, 4]
    return [g.shaped(g.op("Transpose", g.op("Reshape", dy, g.i64(split)), perm=order), operand(n, 0))]


def tospace(g: Tape, n: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
    """The inverse move."""
    x = operand(n, 0)
    return [g.shaped(g.op("DepthToSpace", g.rows(dy, n.outputs[0]), blocksize=attribute(n, "blocksize")), x)]


def tospace_torch(t: Any, n: ir.Node, x: Sequence[Any]) -> Any:
    """torch knows the order in which a channel's block lies together."""
    size, (b, c, h, w) = attribute(n, "blocksize"), x[0].shape
    if attribute(n, "mode", "DCR") == "CRD":
        return t.pixel_shuffle(x[0], size)
    together = x[0].reshape(b, size**2, c // size**2, h, w).transpose(1, 2)
    return t.pixel_shuffle(together.reshape(b, c, h, w), size)


def todepth_torch(t: Any, n: ir.Node, x: Sequence[Any]) -> Any:
    """The places of a block in front of the channels."""
    size, (b, c, h, w) = attribute(n, "blocksize"), x[0].shape
    together = t.pixel_unshuffle(x[0], size).reshape(b, c, size**2, h // size, w // size)
    return together.transpose(1, 2).reshape(b, c * size**2, h // size, w // size)


op("DepthToSpace", channels=block_channels, vjp=todepth, ray=linear, torch=tospace_torch)
op("SpaceToDepth", channels=block_channels, vjp=tospace, ray=linear, torch=todepth_torch)


# ---- Resize --------------------------------------------------------------------------------------------------------
def resized_axes(n: ir.Node) -> dict[int, float | None]:
    """Axis -> scale (None: to be told from the sizes) of each axis that is resampled.

    Raises NotImplementedError where scales or sizes are computed.
    """
    rank = len(dims(operand(n, 0)))
    axes = [int(a) % rank for a in attribute(n, "axes") or range(rank)]
    scales, sizes = (constant(argument(n, i)) for i in (2, 3))
    if scales is not None and scales.size:
        return {a: float(s) for a, s in zip(axes, scales, strict=True) if s != 1}
    if sizes is None or attribute(n, "keep_aspect_ratio_policy", "stretch") != "stretch":
        raise NotImplementedError("computed or proportional sizes have no gradient rule")
    return {a: None for a in axes if dims(operand(n, 0))[a] != dims(n.outputs[0])[a]}


def resize_channels(n: ir.Node, u: Units) -> None:
    """Axes that keep their size pass."""
    x, y = operand(n, 0), n.outputs[0]
    if argument(n, 1) is not None and attribute(n, "coordinate_transformation_mode") == "tf_crop_and_resize":
        return
    scales = constant(argument(n, 2))
    told = scales if scales is not None and scales.size == len(dims(x)) else np.ones(len(dims(x)))
    for a, d in enumerate(dims(x)):
        if d == dims(y)[a] and told[a] == 1:
            u.tie(u[x, a], u[y, a])


def resize_resize(n: ir.Node, keep: Keep) -> None:
    """Sizes are counted anew; scales stay."""
    sizes, rank = constant(argument(n, 3)), len(dims(operand(n, 0)))
    if sizes is not None and sizes.size:
        y, axes = n.outputs[0], [int(a) % rank for a in attribute(n, "axes") or range(rank)]
        rewrite(
            n, 3, [int(keep(y, a).sum()) if dims(y)[a] > 0 else s for a, s in zip(axes, sizes.tolist(), strict=True)]
        )


def interpolation(n: ir.Node, axis: int, scale: float | None) -> NDArray[np.float32]:
    """The matrix [size of y, size of x] by which one axis is resampled: what becomes of unit vectors."""
    before, after = dims(operand(n, 0))[axis], dims(n.outputs[0])[axis]
    settings = {k: v for k, v in n.attributes.items() if k not in ("axes", "keep_aspect_ratio_policy")}
    return resampled(before, after, scale, tuple(sorted((k, a.value) for k, a in settings.items())))


@lru_cache(maxsize=64)
def resampled(before: int, after: int, scale: float | None, settings: tuple[tuple[str, Any], ...]) -> NDArray[Any]:
    """The matrix of a Resize with these attributes; training asks for it at every step."""
    alone = ir.node("Resize", [None], dict(settings))
    told = [np.array([1, scale], np.float32), None] if scale else [None, np.array([before, after], np.int64)]
    return evaluate(alone, [np.eye(before, dtype=np.float32), None, *told])[0].T


def resize_vjp(g: Tape, n: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
    """Resampling is a matrix along each axis: back by its transpose."""
    if attribute(n, "coordinate_transformation_mode") == "tf_crop_and_resize":
        raise NotImplementedError("tf_crop_and_resize has no gradient rule")
    rank = len(dims(operand(n, 0)))
    for axis, scale in resized_axes(n).items():
        if dims(operand(n, 0))[axis] < 0:
            raise NotImplementedError("resampling the batch has no gradient rule")
        if axis == rank - 1:
            dy = g.op("MatMul", dy, g.f32(interpolation(n, axis, scale)))
        else:
            order = list(range(rank + 1))
            order[axis + 1], order[-1] = order[-1], order[axis + 1]
            last = g.op("MatMul", g.op("Transpose", dy, perm=order), g.f32(interpolation(n, axis, scale)))
            dy = g.op("Transpose", last, perm=order)
    return [dy, *[None] * (len(n.inputs) - 1)]


def resize_torch(t: Any, n: ir.Node, x: Sequence[Any]) -> Any:
    """A matrix along each axis, or a pick where every row of it is one."""
    if attribute(n, "coordinate_transformation_mode") == "tf_crop_and_resize":
        raise NotImplementedError("it is of the kind tf_crop_and_resize")
    y = x[0]
    for axis, scale in resized_axes(n).items():
        matrix = interpolation(n, axis, scale)
        if attribute(n, "mode", "nearest") == "nearest":
            y = y.index_select(axis, t.from_numpy(matrix.argmax(axis=1)).to(y.device))
        else:
            y = (y.movedim(axis, -1) @ t.from_numpy(matrix.T.copy()).to(y)).movedim(-1, axis)
    return y


op("Resize", channels=resize_channels, vjp=resize_vjp, ray=linear, resize=resize_resize, torch=resize_torch)

"""Ops that trade channels for space, and resize space."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from toolchain.inference import evaluate
from toolchain.ops.mend import rewrite
from toolchain.ops.table import Flow, Keep, argument, attribute, constant, dims, linear, op, operand
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


def tospace_lite(w: Any, n: ir.Node) -> None:
    """The file has the places of a block in front of the channels: an order of the channels for the other mode."""
    x, size = w.image(n), attribute(n, "blocksize")
    blocks = in_blocks(n, np.arange(x.dims[1]))
    if not np.array_equal(blocks.ravel(), np.arange(x.dims[1])):
        x = w.reordered(x, 1, tuple(blocks.ravel().tolist()))
    layout = x.layout.ordered(1, None)
    w.give(n.outputs[0], w.op("DEPTH_TO_SPACE", x, dims=w.dims(n.outputs[0]), layout=layout, blockSize=size))


def todepth_lite(w: Any, n: ir.Node) -> None:
    """The file's op is ONNX's."""
    size = attribute(n, "blocksize")
    w.give(n.outputs[0], w.op("SPACE_TO_DEPTH", w.image(n), dims=w.dims(n.outputs[0]), blockSize=size))


BLOCKS: dict[str, Any] = {"channels": block_channels, "ray": linear}
op("DepthToSpace", vjp=todepth, torch=tospace_torch, lite=tospace_lite, lrp=Flow.MOVES, **BLOCKS)
op("SpaceToDepth", vjp=tospace, torch=todepth_torch, lite=todepth_lite, lrp=Flow.MOVES, **BLOCKS)


# ---- Resize --------------------------------------------------------------------------------------------------------
def resized_axes(n: ir.Node) -> dict[int, float | None]:
    """Axis -> scale (None: to be told from the sizes) of each axis that is resampled.

    Where no size changes there is none: onnxruntime then copies, whatever the scales.

    Raises NotImplementedError where scales or sizes are computed.
    """
    rank = len(dims(operand(n, 0)))
    if dims(operand(n, 0)) == dims(n.outputs[0]):
        return {}
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


def half_pixel(i: Any, scale: Any, before: int, after: int) -> Any:
    """Positions are centers of pixels."""
    return (i + np.float32(0.5)) / scale - np.float32(0.5)


def symmetric(i: Any, scale: Any, before: int, after: int) -> Any:
    """As half_pixel, with what a size rounds off shared between both ends."""
    short = np.float32(1) - np.float32(after) / (scale * np.float32(before))
    return np.float32(before / 2) * short + (i + np.float32(0.5)) / scale - np.float32(0.5)


COORDINATES: dict[str, Callable[[Any, Any, int, int], Any]] = {  # (i, scale, before, after) -> place in x, float32
    "half_pixel": half_pixel,
    "half_pixel_symmetric": symmetric,
    "pytorch_half_pixel": lambda i, s, before, after: half_pixel(i, s, before, after) if after > 1 else 0 * i,
    "asymmetric": lambda i, s, before, after: i / s,
    "align_corners": lambda i, s, before, after: i * np.float32(before - 1) / np.float32(max(after - 1, 1)),
}
ROUNDINGS: dict[str, Callable[[Any], Any]] = {
    "round_prefer_floor": lambda x: np.floor(x) + (x - np.floor(x) > 0.5),
    "round_prefer_ceil": lambda x: np.floor(x) + (x - np.floor(x) >= 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def nearest(before: int, after: int, scale: float | None, settings: dict[str, Any]) -> NDArray[np.int64]:
    """Which position of x each of y is, in the float32 steps of onnxruntime: they decide where two are as near."""
    told = np.float32(scale if scale else np.float32(after) / np.float32(before))
    place = COORDINATES[settings.get("coordinate_transformation_mode", "half_pixel")]
    places = place(np.arange(after, dtype=np.float32), told, before, after)
    rounded = ROUNDINGS[settings.get("nearest_mode", "round_prefer_floor")](places)
    return np.clip(rounded, 0, before - 1).astype(np.int64)


@lru_cache(maxsize=64)
def resampled(before: int, after: int, scale: float | None, settings: tuple[tuple[str, Any], ...]) -> NDArray[Any]:
    """The matrix of a Resize with these attributes; training asks for it at every step."""
    given = dict(settings)
    if given.get("mode", "nearest") == "nearest":
        return np.eye(before, dtype=np.float32)[nearest(before, after, scale, given)]
    kind = given.get("coordinate_transformation_mode", "half_pixel")
    if kind == "align_corners" or (kind == "pytorch_half_pixel" and after == 1):  # by whole sizes, not by scales
        given["coordinate_transformation_mode"], scale = "align_corners", None
    alone = ir.node("Resize", [None], given)
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


LITE_MODES = ((False, False), (False, True), (True, False))  # (align_corners, half_pixel_centers)


def lite_matrix(before: int, after: int, linearly: bool, corners: bool, centers: bool) -> NDArray[np.float32]:
    """The matrix [after, before] by which LiteRT 2.3 resamples one axis, in its own float32 steps."""
    apart = corners and after > 1
    scale = np.float32((before - 1) / (after - 1) if apart else before / after)
    places = (np.arange(after, dtype=np.float32) + np.float32(0.5 if centers else 0)) * scale
    matrix, rows = np.zeros((after, before), np.float32), np.arange(after)
    if not linearly:  # corners are rounded half away from zero
        picked = np.floor(places + np.float32(0.5) if corners else places)
        matrix[rows, np.clip(picked, 0, before - 1).astype(int)] = 1
        return matrix
    places = np.clip(places - np.float32(0.5 if centers else 0), 0, before - 1)
    low = np.floor(places).astype(int)
    matrix[rows, low] = 1 - (places - low)
    matrix[rows, np.minimum(low + 1, before - 1)] += places - low
    return matrix


def lite_mode(n: ir.Node, matrices: dict[int, NDArray[np.float32]]) -> tuple[bool, bool] | None:
    """Corners and centers with which the file's own op resamples height and width like these matrices, or None."""
    before, after, mode = dims(operand(n, 0)), dims(n.outputs[0]), attribute(n, "mode", "nearest")
    if len(before) != 4 or not matrices.keys() <= {2, 3} or mode == "cubic":
        return None
    for corners, centers in LITE_MODES:
        theirs = {a: lite_matrix(before[a], after[a], mode == "linear", corners, centers) for a in (2, 3)}
        ours = {a: matrices.get(a, np.eye(after[a], dtype=np.float32)) for a in (2, 3)}
        if all(np.allclose(theirs[a], ours[a], rtol=0, atol=1e-6) for a in (2, 3)):
            return corners, centers
    return None


def resize_lite(w: Any, n: ir.Node) -> None:
    """The file's own op where it is the same; else picks, or a product with a matrix, along each axis."""
    mode, x = attribute(n, "mode", "nearest"), operand(n, 0)
    try:
        scales = resized_axes(n)
    except NotImplementedError:
        return w.refuse(n, "has computed or proportional sizes", "Export with constant scales")
    if attribute(n, "coordinate_transformation_mode") == "tf_crop_and_resize" or any(dims(x)[a] < 0 for a in scales):
        return w.refuse(n, "crops, or resamples the batch", "Export another coordinate transformation")
    matrices = {a: interpolation(n, a, scale) for a, scale in scales.items()}
    found = lite_mode(n, matrices)
    if found is not None and matrices:
        code = "RESIZE_BILINEAR" if mode == "linear" else "RESIZE_NEAREST_NEIGHBOR"
        image, size = w.image(n), w.dims(n.outputs[0])
        table = np.array(size[2:], np.int32)
        return w.give(
            n.outputs[0], w.op(code, image, table, dims=size, alignCorners=found[0], halfPixelCenters=found[1])
        )
    y = w.input(x)
    if mode == "nearest":
        y = w.taken(y, {a: m.argmax(axis=1) for a, m in matrices.items()})
    else:
        for axis, matrix in matrices.items():
            y = w.multiplied(y, axis, matrix)
    w.give(n.outputs[0], y)


op(
    "Resize",
    channels=resize_channels,
    vjp=resize_vjp,
    ray=linear,
    resize=resize_resize,
    torch=resize_torch,
    lite=resize_lite,
    lrp=Flow.ADDS,
)

"""A network with an input for each mask, split where no mask reaches, so that what is before runs once.

Masks are multiplied in wherever `surgery.mask` multiplies. Behind the one mask of a dense layer comes an affine part,
z = z₀ + mW with a row of W for each unit: masking one more unit is a rank-one update of z.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from toolchain.compress.groups import Channels, Group, contracted
from toolchain.errors import Unsupported
from toolchain.inference import reads
from toolchain.model import Model
from toolchain.ops.table import Ray, dims, find
from toolchain.ops.tape import PREFIX
from toolchain.profile import node_macs
from toolchain.session import run, session, with_outputs

if TYPE_CHECKING:
    import onnxruntime as ort

F32 = NDArray[np.float32]
ELEMENT = 20  # multiply-accumulates that take as long as writing one element
IDENTITY_ROWS = 1024  # of the identity that one run multiplies with W


@dataclass(frozen=True)
class Mask:
    """A graph input that multiplies a value along an axis, of this shape."""

    name: str
    value: ir.Value
    axis: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Straight:
    """z = z₀ + mW behind a mask, and what answers it.

    weights  W, [positions of the mask, width of z]
    affine   h and its mask -> z
    rest     z -> answers, or None where z is the answer
    """

    weights: F32
    affine: ort.InferenceSession
    rest: ort.InferenceSession | None


@dataclass(frozen=True)
class Masked:
    """A classifier whose units can be masked.

    head      everything before the masks -> the values in `cached`
    tail      these and the masks -> answers [n, classes]
    straight  the short way, where there is one
    work      multiply-accumulates of one sample at one step; an element that is written counts as several
    row_bytes of the values of one sample in the tail
    """

    channels: Channels
    masks: tuple[Mask, ...]
    cached: tuple[str, ...]
    head: ort.InferenceSession
    tail: ort.InferenceSession
    straight: Straight | None
    work: int
    row_bytes: int


def masked(model: Model, channels: Channels, groups: Sequence[Group], threads: int = 1) -> Masked:
    """The network with a mask for the units of these groups; raises Unsupported where they do not reach its answer."""
    if model.batch != "free":
        raise Unsupported(f"the graph runs at batch {model.batch} only: {model.held_by}")
    clone = model.ir.clone()
    reached = channels.flags(channels.closure(np.concatenate([g.units for g in groups])))
    masks, inputs = with_masks(model, clone, channels, reached)
    moving = behind(clone, inputs)
    answer = clone.graph.outputs[0]
    if answer.producer() not in moving:
        raise Unsupported(f"no unit of {', '.join(g.name for g in groups)} reaches '{answer.name}'")
    cached = [v for v in dict.fromkeys(v for n in moving for v in sorted(reads(n), key=lambda v: str(v.name)))
              if v.const_value is None and v not in inputs and v.producer() not in moving]  # fmt: skip
    tail = only(clone, moving, cached, inputs)
    split = split_straight(tail, masks)
    rest = list(tail.graph) if split is None else list(split[1].graph) if split[1] is not None else []
    tail_session = session(tail, threads)
    return Masked(
        channels,
        tuple(masks),
        tuple(str(v.name) for v in cached),
        session(with_outputs(model.ir, [str(v.name) for v in cached]), threads),
        tail_session,
        None if split is None else straight_of(*split, masks[0], threads),
        sum(node_macs(n, dims) + ELEMENT * size_of(n) for n in rest)
        + (0 if split is None else 2 * ELEMENT * dims(split[2])[1]),
        4 * sum(map(size_of, rest)),
    )


def size_of(node: ir.Node) -> int:
    """Elements of one sample that a node makes."""
    return sum(abs(int(np.prod(dims(v)))) for v in node.outputs if v.shape is not None)


# ---- the graph -----------------------------------------------------------------------------------------------------
def with_masks(
    model: Model, clone: ir.Model, channels: Channels, reached: NDArray[np.bool_]
) -> tuple[list[Mask], dict[ir.Value, None]]:
    """Multiply masks in wherever a node sums reached units away; the masks, and the inputs that they come through."""
    labels = channels.labels
    masks: list[Mask] = []
    inputs: dict[ir.Value, None] = {}
    products: dict[tuple[ir.Value, int], ir.Value] = {}
    for old, new in zip(model.graph, list(clone.graph), strict=True):
        met = [labels.of(v, a) for _, (v, a) in contracted(old) if v.const_value is None and (v, a) in labels.axes]
        for i, (value, axis) in contracted(old):
            read = new.inputs[i]
            if read is None or (value, axis) not in labels.axes or not reached[of := labels.of(value, axis)].any():
                continue
            if value.const_value is not None and any(np.array_equal(of, other) for other in met):
                continue  # its rows meet an activation that is masked; those of a recurrence meet a state
            if (read, axis) not in products:
                shape = tuple(len(of) if a == axis else 1 for a in range(len(value.shape or ())))
                factor = ir.Value(name=f"{PREFIX}mask{len(masks)}", shape=ir.Shape(shape), type=read.type)
                masks.append(Mask(str(factor.name), value, axis, shape))
                inputs[factor] = None
                product = ir.node("Mul", [read, factor], name=f"{PREFIX}product{len(masks)}")
                product.outputs[0].name = f"{PREFIX}masked{len(masks)}"
                product.outputs[0].type, product.outputs[0].shape = read.type, value.shape
                clone.graph.insert_before(new, product)
                products[read, axis] = product.outputs[0]
            new.replace_input_with(i, products[read, axis])
    return masks, inputs


def behind(model: ir.Model, starts: Mapping[ir.Value, None]) -> dict[ir.Node, None]:
    """The nodes that depend on these values and lead to the first output, in order."""
    moving = set(starts)
    found = []
    for node in model.graph:
        if not moving.isdisjoint(reads(node)):
            moving.update(node.outputs)
            found.append(node)
    needed = {model.graph.outputs[0]}
    kept = []
    for node in reversed(found):
        if not needed.isdisjoint(node.outputs):
            needed |= reads(node)
            kept.append(node)
    return dict.fromkeys(reversed(kept))


def only(
    model: ir.Model, nodes: Mapping[ir.Node, None], cached: Sequence[ir.Value], inputs: Mapping[ir.Value, None]
) -> ir.Model:
    """A graph of its own: these nodes, `cached` and further inputs, and the first output; the graph is used up."""
    graph = model.graph
    answer = graph.outputs[0]
    graph.outputs.clear()
    graph.outputs.append(answer)
    held = []
    for value in cached:
        held.append(ir.Value(name=value.name, shape=value.shape, type=value.type))
        ir.convenience.replace_all_uses_with(value, held[-1])
    for node in reversed(list(graph)):
        if node not in nodes:
            graph.remove(node, safe=True)
    graph.inputs.clear()
    graph.inputs.extend([*held, *inputs])
    used = set().union(*map(reads, graph))
    for name, value in list(graph.initializers.items()):
        if value not in used:
            del graph.initializers[name]
    return model


def split_straight(tail: ir.Model, masks: Sequence[Mask]) -> tuple[ir.Model, ir.Model | None, ir.Value] | None:
    """(up to z, behind z, z) where one mask of a dense layer is all that moves, and z is affine in it; else None."""
    product = next(n for n in tail.graph if n.name == f"{PREFIX}product1")
    h = tail.graph.inputs[0]
    alone = len(tail.graph.inputs) == 2 and len(list(h.uses())) == 1 and product.inputs[0] is h
    if not alone or len(dims(h)) != 2 or dims(h)[0] != -1 or masks[0].axis != 1:
        return None
    rays: dict[ir.Value, Ray] = {product.outputs[0]: Ray.AFFINE}
    for node in tail.graph:
        entry = find(node)
        if node is not product and entry is not None and entry.ray is not None:
            ray = entry.ray(node, [rays.get(v) if v is not None else None for v in node.inputs])
            rays |= dict.fromkeys(node.outputs, ray) if ray > Ray.CURVED else {}
    curved = [n for n in tail.graph if n is not product and any(o not in rays for o in n.outputs)]
    fronts = {v for n in curved for v in reads(n) if v in rays} | ({*tail.graph.outputs} & rays.keys())
    if len(fronts) != 1:
        return None
    (z,) = fronts
    if z is product.outputs[0] or len(dims(z)) != 2 or dims(z)[0] != -1:
        return None
    affine = with_outputs(tail, [str(z.name)])
    if z in tail.graph.outputs:
        return affine, None, z
    rest = tail.clone()
    again = next(o for n in rest.graph for o in n.outputs if o.name == z.name)
    return affine, only(rest, behind(rest, {again: None}), [again], {}), z


def straight_of(affine: ir.Model, rest: ir.Model | None, z: ir.Value, mask: Mask, threads: int) -> Straight:
    """W by sending the identity through the affine part."""
    runner = session(affine, threads)
    size, h = mask.shape[1], runner.get_inputs()[0].name
    ones = {mask.name: np.ones(mask.shape, np.float32)}
    (offset,) = run(runner, ones | {h: np.zeros((1, size), np.float32)})
    weights = np.empty((size, dims(z)[1]), np.float32)
    for start in range(0, size, IDENTITY_ROWS):
        rows = np.eye(min(IDENTITY_ROWS, size - start), size, start, np.float32)
        weights[start : start + len(rows)] = run(runner, ones | {h: rows})[0] - offset
    return Straight(weights, runner, None if rest is None else session(rest, threads))

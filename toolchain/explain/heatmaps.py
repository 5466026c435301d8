"""Which pixels speak for a class: relevance of every pixel for the logit of a class, from the ONNX graph itself.

Every method walks back from the logit before the softmax, with a rule for each op, and the walk is itself a graph of
standard ops that onnxruntime runs. Methods differ in the rule, in what the walk begins with, in the points at which it
is made (along a path, in noise), and in what is shown of what arrives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from toolchain.compress.gradient import INPUT, Rule, Tail, Writer, backward, pulled_back, tail_of
from toolchain.compress.objective import LABELS, Classes
from toolchain.errors import Unsupported, UsageError, nearest
from toolchain.explain.norms import merged_norms
from toolchain.explain.propagation import BOX, PROPORTIONAL, Layer, alpha_beta, favour, propagated
from toolchain.explain.rules import deconvolved, guided
from toolchain.model import Model
from toolchain.ops.table import dims, is_convolution
from toolchain.ops.tape import PREFIX, Tape
from toolchain.session import run, session, with_outputs

F32 = NDArray[np.float32]
OUTPUT = PREFIX + "relevance"
MEMORY = 1 << 28  # bytes of activations in one run
MOST_IMAGES = 64  # of one run
STEPS = 64  # nodes of the path integral
COPIES, NOISE = 32, 0.15  # noisy copies, and their deviation as a share of each image's span (Smilkov et al. 2017)
Points = Callable[[F32, int], Iterator[tuple[F32, float]]]
Weighing = Callable[[Tape, ir.Value, ir.Value], ir.Value]


# ---- where the walk is made ------------------------------------------------------------------------------------------
def itself(x: F32, seed: int) -> Iterator[tuple[F32, float]]:
    """The image alone."""
    yield x, 1.0


def path(x: F32, seed: int) -> Iterator[tuple[F32, float]]:
    """Gauss-Legendre nodes on the way from black, α in [0, 1], and their weights."""
    nodes, weights = np.polynomial.legendre.leggauss(STEPS)
    for alpha, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        yield np.float32(alpha) * x, float(weight)


def noisy(x: F32, seed: int) -> Iterator[tuple[F32, float]]:
    """Copies in normal noise, the same for every image, so that a map does not depend on its neighbours."""
    generator = np.random.default_rng(seed)
    span = x.max(axis=(1, 2, 3), keepdims=True) - x.min(axis=(1, 2, 3), keepdims=True)
    for _ in range(COPIES):
        yield x + np.float32(NOISE) * span * generator.standard_normal(x.shape[1:], np.float32), 1 / COPIES


# ---- what is shown ---------------------------------------------------------------------------------------------------
def magnitude(r: F32) -> F32:
    """The largest |r| of the channels (Simonyan et al. 2014, sec. 3.1)."""
    return np.abs(r).max(axis=1)


def signed(r: F32) -> F32:
    """The sum over the channels."""
    return r.sum(axis=1)


# ---- class activation maps -------------------------------------------------------------------------------------------
def cam(g: Tape, a: ir.Value, gradient: ir.Value) -> ir.Value:
    """α_k, the mean of ∂y/∂A^k over the places (Selvaraju et al. 2017, eq. 1)."""
    return g.op("ReduceMean", gradient, g.i64([-2, -1]))


def cam_plus_plus(g: Tape, a: ir.Value, gradient: ir.Value) -> ir.Value:
    """w_k = Σ α ReLU(g) with α = g²/(2g² + ΣA·g³), which is 1/(2 + ΣA·g) (Chattopadhay et al. 2018, eq. 19)."""
    below = g.op("Add", g.f32(2), g.op("Mul", g.op("ReduceSum", a, g.i64([-2, -1])), gradient))
    safe = g.op("Where", g.op("Equal", below, g.f32(0)), g.f32(1), below)
    return g.op("ReduceSum", g.op("Div", g.op("Relu", gradient), safe), g.i64([-2, -1]))


# ---- the methods -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Method:
    """One way to make a heatmap.

    source     where it comes from
    rule       of the walk back
    is_scored  the walk begins with the logit itself, which is then shared out, instead of with 1
    points     (images, seed) -> points and weights: the walk is made at each, and summed
    by_pixel   what arrives is multiplied with the pixels
    shown      [n, c, h, w] -> [n, h, w]
    weighs     of a class activation map: (tape, A, ∂y/∂A) -> weight of each channel of a layer A
    prepared   the network that is walked
    """

    source: str
    rule: Rule = pulled_back
    is_scored: bool = False
    points: Points = itself
    by_pixel: bool = False
    shown: Callable[[F32], F32] = signed
    weighs: Weighing | None = None
    prepared: Callable[[Model], Model] = lambda model: model


def sharing(source: str, *layers: Layer) -> Method:
    """Relevance propagation with rules for dense layers, convolutions, and those that read pixels."""
    return Method(source, propagated(*layers), is_scored=True, prepared=merged_norms)


METHODS: dict[str, Method] = {
    "gradient": Method("Simonyan et al. 2014", shown=magnitude),
    "gradient-x-input": Method("Shrikumar et al. 2017", by_pixel=True),
    "integrated-gradients": Method("Sundararajan et al. 2017; Lundstrom, eq. 1", points=path, by_pixel=True),
    "smoothgrad": Method("Smilkov et al. 2017", points=noisy, shown=magnitude),
    "deconvolution": Method("Zeiler & Fergus 2014", deconvolved, shown=magnitude),
    "guided-backprop": Method("Springenberg et al. 2015", guided, shown=magnitude),
    "lrp-epsilon": sharing("Bach et al. 2015, eq. 58", PROPORTIONAL),
    "lrp-alpha-beta": sharing("Bach et al. 2015, eq. 60, α = 2, β = 1", alpha_beta(2, 1)),
    "lrp-gamma": sharing("Montavon et al. 2019, γ = 1/4", favour(0.25)),
    # z^B where pixels are read, γ in the other convolutions, ε in dense layers
    "lrp-composite": sharing("Montavon et al. 2019, sec. 10.3", PROPORTIONAL, favour(0.25), BOX),
    "grad-cam": Method("Selvaraju et al. 2017", weighs=cam),
    "grad-cam++": Method("Chattopadhay et al. 2018", weighs=cam_plus_plus),
}


def method_named(name: str) -> Method:
    """Raises UsageError for an unknown one."""
    if name not in METHODS:
        raise UsageError(f"there is no method '{name}'", way_out=nearest(name, METHODS))
    return METHODS[name]


# ---- maps ------------------------------------------------------------------------------------------------------------
def heatmaps(
    model: Model,
    method: str,
    x: F32,
    targets: NDArray[np.int64] | None = None,
    *,
    layer: str | None = None,
    seed: int = 0,
    threads: int = 1,
) -> F32:
    """Relevance of each pixel for the logit of a class, [n, h, w].

    Signed sums over the channels; of gradient, smoothgrad, deconvolution and guided-backprop the largest magnitude, of
    class activation maps what is positive.

    x        images [n, c, h, w]
    targets  classes [n]; None: those that the network predicts
    layer    the value whose channels a class activation map weighs; None: the last of `spatial_layers`
    seed     of SmoothGrad's noise

    Raises UsageError for an unknown method, class or layer, and for a layer without spatial axes, Unsupported where the
    network is no classifier of images or an op has no rule.
    """
    return method_named(method).shown(
        relevance(model, method, x, targets, layer=layer, seed=seed, threads=threads),
    )


def relevance(
    model: Model,
    method: str,
    x: F32,
    targets: NDArray[np.int64] | None = None,
    *,
    layer: str | None = None,
    seed: int = 0,
    threads: int = 1,
) -> F32:
    """What `heatmaps` shows before the channels are put together: [n, c, h, w], of class activation maps [n, 1, h, w].

    Raises as `heatmaps` does.
    """
    chosen = method_named(method)
    model = chosen.prepared(model)
    tail = image_tail(model)
    x = np.ascontiguousarray(x, np.float32)
    if x.shape[1:] != dims(tail.cut)[1:]:
        raise UsageError(f"images are {list(x.shape[1:])}, but '{tail.cut.name}' is {list(dims(tail.cut)[1:])}")
    targets = predicted(model, tail, x, threads) if targets is None else np.asarray(targets, np.int64)
    check_targets(targets, len(x), tail)
    runner = session(walk_back(model, tail, chosen, layer), threads)
    parts, size = [], images_at_once(tail)
    for start in range(0, len(x), size):
        some, labels = x[start : start + size], targets[start : start + size]
        points = ((w, run(runner, {INPUT: point, LABELS: labels})[0]) for point, w in chosen.points(some, seed))
        total = sum(np.float32(weight) * found for weight, found in points)
        parts.append(total * some if chosen.by_pixel else total)
    return np.concatenate(parts) if parts else np.zeros_like(x)


def image_tail(model: Model) -> Tail:
    """The whole network as the tail of its one input of images; raises Unsupported where it is no such classifier."""
    shapes = list(model.inputs.values())
    if len(shapes) != 1 or len(shapes[0]) != 3:
        raise Unsupported(f"heatmaps need one input of images [channels, height, width], not {model.inputs}")
    if model.batch != "free":
        raise Unsupported(f"the graph runs at batch {model.batch} only: {model.held_by}")
    tail = tail_of(model, next(iter(model.inputs)))
    if not isinstance(tail.objective, Classes):
        raise Unsupported("heatmaps are about a class, and the network has none: it needs one output [N, classes]")
    return tail


def logits_of(tail: Tail) -> ir.Value:
    """The scores before a softmax, [N, J]."""
    return tail.objective.values[0]


def predicted(model: Model, tail: Tail, x: F32, threads: int = 1) -> NDArray[np.int64]:
    """The class with the largest logit, [n]."""
    runner = session(with_outputs(model.ir, [str(logits_of(tail).name)]), threads)
    name, size = str(tail.cut.name), images_at_once(tail)
    found = [run(runner, {name: x[i : i + size]})[0].argmax(axis=1) for i in range(0, len(x), size)]
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def check_targets(targets: NDArray[np.int64], n: int, tail: Tail) -> None:
    """Raise UsageError unless there is a class for every image."""
    count = dims(logits_of(tail))[1]
    if targets.shape != (n,):
        raise UsageError(f"{n} images need {n} classes, not {list(targets.shape)}")
    if n and not 0 <= targets.min() <= targets.max() < count:
        raise UsageError(f"classes are 0 to {count - 1}, not {int(targets.min())} to {int(targets.max())}")


def images_at_once(tail: Tail) -> int:
    """Images of one run, whose activations and relevances fit MEMORY."""
    values = [tail.cut, *(v for n in tail.nodes for v in n.outputs if v.shape is not None)]
    each = 8 * sum(abs(math.prod(dims(v))) for v in values)
    return max(1, min(MOST_IMAGES, MEMORY // each))


# ---- the graph of a walk back ----------------------------------------------------------------------------------------
def walk_back(model: Model, tail: Tail, method: Method, layer: str | None = None) -> ir.Model:
    """The graph of one method: images [N, c, h, w] and classes [N] in, relevances out.

    Raises UsageError for a layer that is none, Unsupported with the op that has no rule.
    """
    at = tail.cut if method.weighs is None else layer_of(tail, layer)
    writer = Writer(model)
    g, values = writer.tape, {tail.cut: writer.input(INPUT, tail.cut)}
    labels = writer.vector(LABELS, ir.DataType.INT64, "N")
    writer.copy(tail.nodes, values, "once/")
    logits = logits_of(tail)
    begin = g.op("OneHot", labels, g.i64(dims(logits)[1]), g.f32([0, 1]), axis=-1)
    begin = g.op("Mul", begin, values[logits]) if method.is_scored else begin
    begun = {logits: g.op("Unsqueeze", begin, g.i64([0]))}
    try:
        found = backward(g, tail.nodes, values, begun, [at], method.rule)[at]
    except Unsupported as error:
        raise Unsupported(error.what, error.where, "Ask for another method: --methods names them") from error
    arrived = g.op("Squeeze", found, g.i64([0]))
    if method.weighs is None:
        return writer.finish([(arrived, OUTPUT, at.shape or ())])
    weighed = g.op("Mul", method.weighs(g, values[at], arrived), values[at])
    cams = g.op("Relu", g.op("ReduceSum", weighed, g.i64([1])))
    (_, _, *size), (_, _, *before) = dims(tail.cut), dims(at)
    scales = g.f32([1, 1, *(a / b for a, b in zip(size, before, strict=True))])
    resized = g.op("Resize", cams, None, scales, mode="linear") if size != before else cams
    return writer.finish([(resized, OUTPUT, ["N", 1, *size])])


def spatial_layers(tail: Tail) -> list[ir.Value]:
    """Values [N, k, h, w] whose channels a class activation map can weigh, in order: maps that no pooling made."""
    found = []
    for node in tail.nodes:
        y, x = node.outputs[0], node.inputs[0]
        if len(shape := shape_of(y)) != 4 or shape[0] != -1 or math.prod(shape[2:]) < 2:
            continue
        if is_convolution(node) or shape_of(x)[2:] == shape[2:]:
            found.append(y)
    return found


def shape_of(value: ir.Value | None) -> tuple[int, ...]:
    """() where it is not known."""
    return () if value is None or value.shape is None else dims(value)


def layer_of(tail: Tail, name: str | None) -> ir.Value:
    """The value of this name with spatial axes; by default the last of `spatial_layers`."""
    layers = spatial_layers(tail)
    if not layers:
        raise Unsupported("a class activation map needs a layer [N, channels, height, width], and there is none")
    if name is None:
        return layers[-1]
    values = {str(v.name): v for n in tail.nodes for v in n.outputs}
    if name not in values:
        raise UsageError(f"there is no layer '{name}' before the logits", way_out=nearest(name, values))
    value = values[name]
    if len(shape := shape_of(value)) != 4 or shape[0] != -1 or math.prod(shape[2:]) < 2:
        some: Sequence[Any] = [v.name for v in layers[-8:]]
        raise UsageError(
            f"layer '{name}' {value.shape} has no spatial axes, which a class activation map needs",
            way_out=f"Layers that have are {', '.join(map(str, some))}",
        )
    return value

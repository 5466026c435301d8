"""Laws of the op table, over every row of cases.py: gradients, rays, multiply-accumulates, channels."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from cases import CASES, Case
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from ops.definitions import DEFINITIONS

from toolchain.compress.gradient import Rule, Tail, Writer, backward, pulled_back, rays_of
from toolchain.compress.groups import freeze_untouched
from toolchain.compress.layers import inputs_at, is_linear, matrix, outputs_at, positions, store
from toolchain.compress.rows import along_batch, batch_axis, per_sample
from toolchain.errors import Unsupported
from toolchain.explain.propagation import PROPORTIONAL, propagated
from toolchain.inference import infer
from toolchain.model import Model, apply
from toolchain.ops import OPS
from toolchain.ops.matrices import matrix_of
from toolchain.ops.table import Flow, Ray, Sign, Weights, dims, sign_of, weights_of
from toolchain.ops.units import Labels, Units
from toolchain.session import session

K = 3  # cotangents at once
BATCH = 2
ROUNDING = 1e-5  # float32 sums of a few hundred terms, relative to the sum of their sizes
DERIVABLE = [c for c in CASES if OPS[c.op].vjp is not None and not c.refused and set(c.computed) - set(c.whole)]


def name_of(i: int) -> str:
    return f"x{i}"


def concrete(case: Case, batch: int = BATCH) -> dict[str, np.ndarray]:
    """Computed inputs in float64: all values different, none near a kink, none near 0 where it divides."""
    feed = {}
    for i, shape in case.computed.items():
        size = [batch if d == "N" else int(d) for d in shape]
        generator = np.random.default_rng([i, *size])
        if i in case.whole:
            feed[name_of(i)] = generator.integers(0, case.whole[i] or 2, size).astype(whole_type(case, i))
            continue
        count = int(np.prod(size))
        values = (generator.permutation(count) + 0.37) * 4.0 / count + case.low
        if case.op == "Div" and i == 1:
            values = np.sign(values) * (np.abs(values) + 0.5)
        feed[name_of(i)] = values.reshape(size)
    return feed


def whole_type(case: Case, i: int) -> type:
    """Of whole numbers, or of truths where their limit is 0."""
    return np.int64 if case.whole[i] else np.bool_


def derivable(case: Case) -> list[str]:
    """Inputs that have a derivative."""
    return [name_of(i) for i in case.computed if i not in case.whole]


def single_precision(feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Floats as the network has them."""
    return {k: v.astype(np.float32) if v.dtype.kind == "f" else v for k, v in feed.items()}


def proto(case: Case, dtype: type = np.float32, **changed: Any) -> onnx.ModelProto:
    """A model of one node; parameters of float type in `dtype`."""
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    types = {i: helper.np_dtype_to_tensor_dtype(np.dtype(whole_type(case, i))) for i in case.whole}
    names = ["" if x is None else name_of(i) for i, x in enumerate(case.inputs)]
    parameters = {i: x for i, x in enumerate(case.inputs) if isinstance(x, np.ndarray)}
    node = helper.make_node(
        case.op, names, [f"y{i}" for i in range(case.outputs)], name="node", **(case.attributes | changed)
    )
    graph = helper.make_graph(
        [node],
        "case",
        [helper.make_tensor_value_info(name_of(i), types.get(i, element), s) for i, s in case.computed.items()],
        [helper.make_empty_tensor_value_info("y0")],
        [
            numpy_helper.from_array(p.astype(dtype) if p.dtype == np.float32 else p, name_of(i))
            for i, p in parameters.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", case.opset)], ir_version=10)


def model_of(case: Case) -> Model:
    """The node as the toolchain sees it: settled shapes with a free batch."""
    model = ir.from_proto(proto(case))
    given = {str(v.name): case.computed[int(str(v.name)[1:])] for v in model.graph.inputs}
    walks = (
        infer(
            model.graph,
            {v: tuple(b if d == "N" else int(d) for d in given[str(v.name)]) for v in model.graph.inputs},
        )
        for b in (2, 3)
    )
    apply(model.graph, *walks)
    return Model(model, "0" * 64, case.opset)


class Exact:
    """The node in float64, by onnx's own reference: independent of onnxruntime.

    Workarounds for the reference of onnx 1.23: grouped ConvTranspose is put together group by group; output_shape and
    MaxPool's auto_pad are written out as pads (ignored, and wrong for SAME_LOWER); Pad runs in onnxruntime (no cuts).
    """

    def __init__(self, case: Case) -> None:
        changed: dict[str, Any] = {}
        if case.op == "Cast" and case.attributes["to"] == 1:
            changed = {"to": onnx.TensorProto.DOUBLE}
        if case.op == "MaxPool":
            changed = {"auto_pad": "NOTSET", "pads": explicit_pads(case)}
        if "output_shape" in case.attributes:
            pads, left = explicit_pads(case), {k: v for k, v in case.attributes.items() if k != "output_shape"}
            case = dataclasses.replace(case, attributes=left | {"auto_pad": "NOTSET", "pads": pads})
        self.groups = case.attributes.get("group", 1) if case.op == "ConvTranspose" else 1
        if self.groups > 1:
            x, w, *bias = (np.zeros(i[1:]) if isinstance(i, tuple) else i for i in case.inputs)
            shapes = [("N", len(x) // self.groups, *x.shape[1:])]
            self.parts = [
                Exact(dataclasses.replace(case, inputs=(*shapes, *p), attributes=case.attributes | {"group": 1}))
                for p in zip(np.split(w, self.groups), *(np.split(b, self.groups) for b in bias), strict=True)
            ]
        else:
            model = proto(case, np.float64, **changed)
            self.evaluator = (
                session(ir.from_proto(model)) if case.op == "Pad" else ReferenceEvaluator(model, new_ops=DEFINITIONS)
            )

    def __call__(self, feed: dict[str, np.ndarray]) -> np.ndarray:
        if self.groups > 1:
            xs = np.split(feed["x0"], self.groups, axis=1)
            return np.concatenate([f({"x0": x}) for f, x in zip(self.parts, xs, strict=True)], axis=1)
        return np.asarray(self.evaluator.run(["y0"], feed)[0], np.float64)


def gradients(
    case: Case, feed: dict[str, np.ndarray], u: np.ndarray, is_steady: bool = False, rule: Rule = pulled_back
) -> dict[str, np.ndarray]:
    """Jᵀu of K cotangents [K, *y] by the table's rule in onnxruntime, {input: [K, *x]}; a steady u has one sample."""
    model = model_of(case)
    writer = Writer(model, K)
    inputs = {v: writer.input(str(v.name), v) for v in model.graph.inputs}
    values = dict(inputs)
    writer.copy(list(model.graph), values, "forward/")
    y = model.graph[0].outputs[0]
    seed = ir.Value(name="u", shape=ir.Shape([K, *u.shape[1:]]), type=ir.TensorType(ir.DataType.FLOAT))
    if is_steady:
        seed = writer.tape.f32(u)
        writer.tape.steady.add(seed)
    else:
        writer.inputs.append(seed)
    inputs = {v: i for v, i in inputs.items() if v.name in derivable(case)}
    found = backward(writer.tape, list(model.graph), values, {y: seed}, list(inputs), rule)
    out = [
        (writer.tape.op("Identity", found[v]), f"d{v.name}", [K, *(d if isinstance(d, int) else "N" for d in v.shape)])
        for v in inputs
    ]
    runner = session(writer.finish(out))
    single = single_precision(feed) | {"u": u.astype(np.float32)}
    asked = {i.name for i in runner.get_inputs()}
    answers = runner.run(None, {k: v for k, v in single.items() if k in asked})
    return {str(v.name): a for v, a in zip(inputs, answers, strict=True)}


@pytest.mark.parametrize("case", DERIVABLE, ids=str)
def test_a_gradient_rule_is_the_transpose_of_the_derivative(case: Case) -> None:
    """⟨v, Jᵀu⟩ = ⟨Jv, u⟩, Jv by central differences in float64."""
    f, x = Exact(case), concrete(case)
    generator = np.random.default_rng(1)
    u = generator.standard_normal((K, *f(x).shape))
    back = gradients(case, x, u)
    for name in derivable(case):
        value = x[name]
        assert back[name].shape == (K, *value.shape)
        v = generator.standard_normal(value.shape)
        jv = (f(x | {name: value + case.step * v}) - f(x | {name: value - case.step * v})) / (2 * case.step)
        for k in range(K):
            left, right = float((v * back[name][k]).sum()), float((jv * u[k]).sum())
            scale = float(np.abs(v * back[name][k]).sum() + np.abs(jv * u[k]).sum())
            assert abs(left - right) <= ROUNDING * scale + 1e-9, (name, k, left, right)


@pytest.mark.parametrize("case", DERIVABLE, ids=str)
def test_a_cotangent_that_all_samples_share_may_come_once(case: Case) -> None:
    y, x = model_of(case).graph[0].outputs[0], concrete(case)
    if batch_axis(y) is None or per_sample(y) > 1:
        pytest.skip("not one row for each sample")
    one = np.random.default_rng(1).standard_normal((K, *(abs(d) for d in dims(y))))
    axis = 1 + along_batch(y)
    once, each = gradients(case, x, one, is_steady=True), gradients(case, x, np.concatenate([one] * BATCH, axis=axis))
    for name in derivable(case):
        scale = np.abs(each[name]).max()
        np.testing.assert_allclose(*np.broadcast_arrays(once[name], each[name]), rtol=0, atol=ROUNDING * scale)


@pytest.mark.parametrize("case", [c for c in CASES if c.refused], ids=str)
def test_a_gradient_that_no_rule_knows_is_refused_by_name(case: Case) -> None:
    y = dims(model_of(case).graph[0].outputs[0])
    u = np.zeros((K, *(BATCH if d < 0 else d for d in y)))
    with pytest.raises(Unsupported, match=f"{case.op} 'node'"):
        gradients(case, concrete(case), u)


# ---- relevance -----------------------------------------------------------------------------------------------------
KEEPS = ("Pad-", "Max-parameter", "Max-two and a", "Min-parameter", "Min-two and a")  # what falls on a constant
SHARING = [c for c in DERIVABLE if OPS[c.op].lrp is not None and not str(c).startswith(KEEPS)]


@pytest.mark.parametrize("case", SHARING, ids=str)
def test_relevance_that_comes_back_is_what_was_there_less_the_share_of_the_bias(case: Case) -> None:
    """Σ R_in = Σ R (y − f(0)) / y through sums and layers of weights, Σ R through the others."""
    f, x = Exact(case), concrete(case)
    y = f(x)
    r = y * np.random.default_rng(1).standard_normal((K, *y.shape))
    try:
        back = gradients(case, x, r, rule=propagated(PROPORTIONAL))
    except Unsupported as error:
        assert OPS[case.op].ray is not None and "is not linear in its computed inputs" in str(error)
        return
    is_sum = OPS[case.op].lrp in (Flow.ADDS, Flow.WEIGHS)
    bias = f(x | {n: np.zeros_like(x[n]) for n in derivable(case)}) if is_sum else 0.0
    wanted = r * (1 - bias / np.where(y == 0, 1, y))
    for k in range(K):
        total, scale = (
            sum(back[n][k].sum() for n in back),
            np.abs(r[k]).sum() + sum(np.abs(back[n][k]).sum() for n in back),
        )
        assert abs(total - wanted[k].sum()) <= 1e-4 * scale, k


# ---- signs ---------------------------------------------------------------------------------------------------------
SIGNED = [c for c in CASES if OPS[c.op].sign is not None and not c.refused and not c.whole]
SIGNS: dict[Sign, Callable[[np.ndarray, np.ndarray], Any]] = {
    Sign.FIRES: lambda x, y: (y >= 0) & ((y == 0) | (x > 0)),
    Sign.KEEPS: lambda x, y: ((y > 0) == (x > 0)) & ((y >= 0) | (x < 0)),
    Sign.POSITIVE: lambda x, y: y >= 0,
    Sign.NEGATIVE: lambda x, y: y <= 0,
    Sign.SUMS: lambda x, y: y >= 0,
    Sign.POOLS: lambda x, y: (y <= 0) | (x > 0).any(),
}


@pytest.mark.parametrize("case", SIGNED, ids=str)
def test_the_sign_of_an_output_is_what_the_entry_says(case: Case) -> None:
    """Of sums for inputs that are not negative, of the others for any."""
    sign = sign_of(model_of(case).graph[0])
    if sign is None:
        assert case.op == "PRelu"  # slopes of both signs, or computed
        return
    feed = concrete(case)
    if sign is Sign.SUMS:
        inputs = (
            np.asarray(np.abs(x)) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x for x in case.inputs
        )
        case, feed = dataclasses.replace(case, inputs=tuple(inputs)), {k: np.abs(v) for k, v in feed.items()}
    assert np.all(SIGNS[sign](feed.get("x0", np.nan), Exact(case)(feed)))


@pytest.mark.parametrize("case", [c for c in SIGNED if sign_of(model_of(c).graph[0]) is Sign.POOLS], ids=str)
def test_a_pool_of_maxima_and_a_relu_may_change_places(case: Case) -> None:
    f, x = Exact(case), concrete(case)["x0"]
    np.testing.assert_array_equal(f({"x0": np.maximum(x, 0)}), np.maximum(f({"x0": x}), 0))


@pytest.mark.parametrize("case", [c for c in CASES if OPS[c.op].lrp is Flow.GATES], ids=str)
def test_a_gate_only_ever_opens_and_lets_no_more_than_all_through(case: Case) -> None:
    x = np.linspace(-9, 9, BATCH * math.prod(case.inputs[0][1:])).reshape(BATCH, *case.inputs[0][1:])
    y = Exact(case)({"x0": x}).ravel()
    assert np.all(np.diff(y) >= 0) and y[0] < y[-1] <= 1 and y[0] >= -1


@pytest.mark.parametrize("case", [c for c in CASES if OPS[c.op].view], ids=str)
def test_a_view_is_the_same_elements_in_their_order(case: Case) -> None:
    feed = concrete(case)
    np.testing.assert_array_equal(Exact(case)(feed).ravel(), feed["x0"].ravel())


# ---- layers of weights ---------------------------------------------------------------------------------------------
LAYERS = [c for c in CASES if OPS[c.op].weights is not None and list(c.computed) == [0]]


@pytest.mark.parametrize("case", LAYERS, ids=str)
def test_units_read_and_made_lie_along_the_axes_of_the_weights_that_the_entry_names(case: Case) -> None:
    """Weights scaled along one axis make scaled units; along the other, what scaled units would have made."""
    found, x = weights_of(model_of(case).graph[0]), concrete(case)["x0"]
    if found is None:
        assert case.attributes.get("transA") or case.inputs[1].ndim == 1
        return

    def made(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
        f = Exact(dataclasses.replace(case, inputs=(case.inputs[0], weights, *case.inputs[2:])))
        return f({"x0": x}) - f({"x0": np.zeros_like(x)})

    def scaled(a: np.ndarray, axis: int, by: np.ndarray) -> np.ndarray:
        each = np.tile(by, a.shape[axis] // len(by))  # of every group alike
        return a * each.reshape([-1 if i == axis % a.ndim else 1 for i in range(a.ndim)])

    w = case.inputs[1]
    makes, reads = (2.0 ** (np.arange(w.shape[axis]) % 5 - 2) for axis in (found.makes, found.reads))
    y = made(x, w)
    size = ROUNDING * np.abs(y).max()
    np.testing.assert_allclose(
        made(x, scaled(w, found.makes, makes).astype(w.dtype)), scaled(y, found.unit, makes), atol=size
    )
    np.testing.assert_allclose(
        made(x, scaled(w, found.reads, reads).astype(w.dtype)), made(scaled(x, found.unit, reads), w), atol=size
    )


@pytest.mark.parametrize("case", LAYERS, ids=str)
def test_an_output_is_a_row_of_what_is_read_times_the_matrix(case: Case) -> None:
    model, x, f = model_of(case), concrete(case)["x0"], Exact(case)
    node = model.graph[0]
    if not is_linear(node, model):
        assert OPS[case.op].weights(node) in (None, Weights(1, 0, 1, folds=True)) or case.inputs[1].ndim > 2
        return
    y = f({"x0": x}) - f({"x0": np.zeros_like(x)})  # without the bias
    pick = np.arange(positions(node, y))
    rows = inputs_at(node, x, y.shape[2:], pick)
    product = case.attributes.get("alpha", 1.0) * rows @ matrix(node).astype(np.float64)
    np.testing.assert_allclose(product, outputs_at(node, y, pick), rtol=0, atol=ROUNDING * np.abs(y).max())
    before = matrix(node).copy()
    store(node, before)
    np.testing.assert_array_equal(node.inputs[1].const_value.numpy(), case.inputs[1])


# ---- matrices ------------------------------------------------------------------------------------------------------
CONVOLUTIONS = [c for c in CASES if "Conv" in c.op and c.attributes.get("group", 1) == 1 and list(c.computed) == [0]]


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_a_convolution_is_its_matrix(case: Case) -> None:
    node, x, f = model_of(case).graph[0], concrete(case), Exact(case)
    origin = f({"x0": np.zeros_like(x["x0"])})  # the bias
    y = f(x)
    product = x["x0"].reshape(BATCH, -1) @ matrix_of(node).astype(np.float64)
    np.testing.assert_allclose(product.reshape(y.shape) + origin, y, rtol=0, atol=ROUNDING * np.abs(y).max())


# ---- rays ----------------------------------------------------------------------------------------------------------
def on_ray(kinds: dict[str, Ray | None], feed: dict[str, np.ndarray], alpha: float) -> dict[str, np.ndarray]:
    """Inputs at α: a homogeneous one is α x, an affine one x0 + α (x − x0), None a constant."""
    origin = {k: np.random.default_rng([5, i]).standard_normal(v.shape) for i, (k, v) in enumerate(feed.items())}
    at = {Ray.HOMOGENEOUS: lambda k, v: alpha * v, Ray.AFFINE: lambda k, v: origin[k] + alpha * (v - origin[k])}
    return {k: at[kind](k, v) if (kind := kinds[k]) is not None else v for k, v in feed.items()}


@pytest.mark.parametrize("case", [c for c in DERIVABLE if OPS[c.op].ray is not None], ids=str)
def test_a_straight_ray_is_straight_and_its_jacobian_stands_still(case: Case) -> None:
    f, x, rule = Exact(case), concrete(case), OPS[case.op].ray
    node = model_of(case).graph[0]
    claims = 0
    for choice in itertools.product((None, Ray.AFFINE, Ray.HOMOGENEOUS), repeat=len(derivable(case))):
        kinds = dict.fromkeys(x) | dict(zip(derivable(case), choice, strict=True))
        if all(k is None for k in choice):
            continue
        ray = rule(node, [kinds.get(name_of(i)) for i in range(len(node.inputs))])
        if ray is Ray.CURVED:
            continue
        claims += 1
        y = {a: f(on_ray(kinds, x, a)) for a in (0.0, 0.3, 0.75, 1.0)}
        start = 0.0 if ray is Ray.HOMOGENEOUS else y[0.0]
        for alpha in (0.3, 0.75):
            np.testing.assert_allclose(y[alpha], start + alpha * (y[1.0] - start), rtol=1e-6, atol=1e-6)
        u = np.random.default_rng(2).standard_normal((K, *y[1.0].shape))
        near, far = (gradients(case, on_ray(kinds, x, a), u) for a in (0.3, 1.0))
        for name in (k for k in x if kinds[k] is not None):
            np.testing.assert_allclose(near[name], far[name], rtol=1e-5, atol=1e-5)
    assert claims or case.op in {"Div", "MatMul", "Max", "Min"}, "no ray is ever straight: why is there a rule?"


def test_a_ray_is_curved_where_the_table_has_no_rule() -> None:
    case = next(c for c in CASES if c.op == "Sigmoid")
    model = model_of(case)
    x, node = model.graph.inputs[0], model.graph[0]
    rays = rays_of(Tail(x, (node,), (), node.outputs[0]))
    assert OPS["Sigmoid"].ray is None and rays[node.outputs[0]] is Ray.CURVED


# ---- multiply-accumulates ------------------------------------------------------------------------------------------
def products(case: Case) -> int:
    """Products that one sample takes, counted one by one: with ones everywhere an output is the number of its terms.

    One value alone is multiplied with nothing. Padding is written out as ones: a kernel does its work there too. What a
    transposed convolution cuts off was work.
    """
    ones = [
        None if x is None else np.ones([1 if d == "N" else d for d in x] if isinstance(x, tuple) else x.shape)
        for x in case.inputs
    ]
    if len(ones) == 1:
        return 0
    if case.op in ("LSTM", "GRU", "RNN"):  # every weight once for each time step
        steps, weights = case.inputs[0][0], case.inputs[1:3]
        return sum(1 for _ in range(steps) for matrix in weights for _ in matrix.ravel())
    attributes, pads = dict(case.attributes), []
    if case.op == "Conv":
        pads = explicit_pads(case)
        attributes = {k: v for k, v in attributes.items() if k not in ("pads", "auto_pad")}
        rank = len(pads) // 2
        ones[0] = np.pad(ones[0], [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)], constant_values=1)
    if case.op == "ConvTranspose":
        attributes = {k: v for k, v in attributes.items() if k in ("strides", "dilations", "group")}
    if case.op in ("Conv", "ConvTranspose", "Gemm") and len(ones) > 2:
        ones = ones[:2]
    attributes = {k: v for k, v in attributes.items() if k not in ("alpha", "beta")}
    counted = dataclasses.replace(case, inputs=(ones[0].shape, *ones[1:]), attributes=attributes)
    return round(Exact(counted)({"x0": ones[0]}).sum())


def explicit_pads(case: Case) -> list[int]:
    """Pads of a convolution or pooling, auto_pad and output_shape resolved by ONNX's formulas."""
    kernel = case.attributes["kernel_shape"] if "Pool" in case.op else case.inputs[1].shape[2:]
    rank, size, auto = len(kernel), case.inputs[0][2:], case.attributes.get("auto_pad", "NOTSET")
    strides, asked = case.attributes.get("strides", [1] * rank), case.attributes.get("output_shape")
    if asked:
        total = [t * (s - 1) + k - o for s, t, k, o in zip(size, strides, kernel, asked, strict=True)]
    elif auto.startswith("SAME"):
        total = [max((-(-s // t) - 1) * t + k - s, 0) for s, t, k in zip(size, strides, kernel, strict=True)]
    else:
        return list(case.attributes.get("pads", [0] * 2 * rank))
    small, large = [t // 2 for t in total], [-(-t // 2) for t in total]
    return small + large if auto == "SAME_UPPER" else large + small


@pytest.mark.parametrize("case", [c for c in CASES if OPS[c.op].macs is not None and not c.refused], ids=str)
def test_multiply_accumulates_are_those_that_one_counts(case: Case) -> None:
    assert OPS[case.op].macs(model_of(case).graph[0], dims) == products(case)


# ---- channels ------------------------------------------------------------------------------------------------------
FOLDED = {"ConstantOfShape"}  # where its shape is known; the recurrent network moves its units
MOVED = [c for c in CASES if OPS[c.op].channels is not None and c.op not in FOLDED]


def removable(case: Case) -> tuple[Model, Labels, np.ndarray]:
    """The node, its labels when nothing but its own channel rule speaks, and the labels that may go."""
    model, units = model_of(case), Units()
    node = model.graph[0]
    OPS[case.op].channels(node, units)
    for value in (*node.inputs, *node.outputs):
        freeze_untouched(units, value, "untouched")
    labels = units.solve()
    flattened = {int(labels.root[i]) for _, _, inner in labels.nests for i in inner.ravel()}
    shown = [labels.of(v, a) for v, a in labels.axes if v.const_value is None and v.shape[a] != 1]
    found = np.unique(np.concatenate([np.zeros(0, np.int64), *shown]))
    return model, labels, np.array([u for u in found[~labels.is_frozen(found)] if u not in flattened], np.int64)


def without(model: Model, keep: dict[Any, np.ndarray]) -> ir.Model:
    """The node with rows taken out of its parameters, and its attributes mended by the table."""
    node = model.graph[0]
    entry = OPS[node.op_type]
    if entry.resize is not None:
        entry.resize(node, lambda v, a: keep.get((v, a % len(v.shape)), np.ones(abs(dims(v)[a]), bool)))
    for value in node.inputs:
        if value is not None and value.const_value is not None:
            array = value.const_value.numpy()
            value.const_value = ir.tensor(sliced(array, value, keep), name=value.name)
            value.shape = ir.Shape(value.const_value.shape)
        elif value is not None:
            value.shape = ir.Shape([f"{value.name}.{a}" for a in range(len(value.shape))])
    node.outputs[0].shape = None
    return model.ir


def sliced(array: np.ndarray, value: ir.Value, keep: dict[Any, np.ndarray]) -> np.ndarray:
    """The kept rows of every axis."""
    for axis in range(array.ndim):
        if (rows := keep.get((value, axis))) is not None and len(rows) == array.shape[axis]:
            array = np.compress(rows, array, axis=axis)
    return array


@pytest.mark.parametrize("case", MOVED, ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_what_a_channel_rule_ties_can_go_together(case: Case, seed: int) -> None:
    """Inputs and parameters without some rows give the output without its rows; what is summed away was masked."""
    model, labels, free = removable(case)
    generator = np.random.default_rng([seed, len(free)])
    gone = np.zeros(len(labels.root), bool)
    for unit in generator.permutation(free)[: max(1, len(free) // 2)]:
        trial = gone.copy()
        trial[unit] = True
        for _, outer, inner in labels.nests:  # a channel takes its places along
            trial[labels.root[inner[trial[labels.root[outer]]]]] = True
        if all((~trial[labels.root[i]]).any() for i in labels.axes.values() if i.size):
            gone = trial
    keep = {key: ~gone[labels.root[ids]] for key, ids in labels.axes.items() if ids.size}
    node, feed = model.graph[0], single_precision(concrete(case))
    masked, original = {}, model.ir.clone()
    for i, value in enumerate(node.inputs):
        if value is None:
            continue
        array = (feed[str(value.name)] if value.const_value is None else value.const_value.numpy()).copy()
        for j, axis in OPS[case.op].contracts(node) if OPS[case.op].contracts else ():
            key = (value, axis % len(value.shape))
            if i == j and key in keep:
                np.moveaxis(array, key[1], 0)[~keep[key]] = 0
        if value.const_value is None:
            masked[str(value.name)] = array
        else:
            original.graph[0].inputs[i].const_value = ir.tensor(array, name=value.name)
    (whole,) = session(original).run(["y0"], masked)
    wanted = sliced(whole, node.outputs[0], keep)
    small = {str(v.name): sliced(feed[str(v.name)], v, keep) for v in model.graph.inputs}
    (found,) = session(without(model, keep)).run(["y0"], small)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * np.abs(whole).max())


def test_every_channel_rule_lets_something_go() -> None:
    movable = {c.op for c in MOVED if len(removable(c)[2])}
    assert movable | FOLDED == {name for name, entry in OPS.items() if entry.channels is not None}


def test_every_op_of_the_table_has_a_case() -> None:
    assert set(OPS) == {c.op for c in CASES}


def test_case_labels_are_unique() -> None:
    assert len({str(c) for c in CASES}) == len(CASES)

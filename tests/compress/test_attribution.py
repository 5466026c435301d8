"""Laws of attribution, and three oracles: Captum on the split head, eq. 2 written out, derivatives in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from compress.networks import CLASSIFIERS, Net, cnns, loaded, network, original, samples
from hypothesis import given, settings
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from ops.definitions import DEFINITIONS

from toolchain.compress import objective
from toolchain.compress.attribution import attribute, quadrature
from toolchain.compress.gradient import (
    ALPHA,
    INPUT,
    WEIGHT,
    attribution_graph,
    tail_of,
)  # fmt: skip
from toolchain.compress.groups import analyse
from toolchain.compress.objective import LABELS, objective_of
from toolchain.compress.rows import along_batch, per_sample
from toolchain.errors import Unsupported, UsageError
from toolchain.model import Model
from toolchain.ops import matrices
from toolchain.session import run, session, with_outputs

ROUNDING = 2e-5  # float32 gradients through ten layers, relative to the largest attribution


def classes_of(model: Model) -> int:
    return objective_of(model).classes


def labels_of(model: Model, n: int, seed: int = 0) -> np.ndarray:
    """Random true classes, each of them present."""
    k = classes_of(model)
    return np.random.default_rng(seed).permutation(np.arange(n) % k).astype(np.int64)


def attributions(
    model: Model, cut: str, inputs: dict[str, np.ndarray], labels: np.ndarray, nodes: Any, **options: Any
) -> np.ndarray:
    """A_ij of every sample, [K, n, *s]: the attribution graph itself with these (nodes, weights)."""
    graph = attribution_graph(model, cut, target="classes", **options)
    needed = [cut, *(str(v.name) for v in graph.tail.context)]
    h, *context = run(session(with_outputs(model.ir, needed)), inputs)
    feed = dict(zip(needed[1:], context, strict=True)) | {INPUT: h, LABELS: labels}
    alpha, weight = (np.asarray(a, np.float32) for a in nodes)
    return run(session(graph.ir), feed | {ALPHA: alpha, WEIGHT: weight})[0]


def by_sample(a: np.ndarray, model: Model, cut: str) -> np.ndarray:
    """Summed over all but targets and samples, [K, n, rows…] -> [K, n], wherever the batch lies in the cut."""
    value = next(o for n in model.graph for o in n.outputs if o.name == cut)
    axis, k = along_batch(value), per_sample(value)
    rows = np.moveaxis(a.astype(np.float64), 1 + axis, 1)
    return rows.reshape(len(a), rows.shape[1] // k, -1).sum(axis=2)


def uniform_nodes(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes in α itself, as Captum takes them."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return (nodes + 1) / 2, weights / 2


def cuts_of(model: Model) -> list[tuple[str, int]]:
    """Where the groups of a network are ranked."""
    return list(dict.fromkeys(c for g in analyse(model).groups for c in g.cuts))


# ---- an oracle in float64 ------------------------------------------------------------------------------------------
class Scaled:
    """F(α) of the original file with the cut multiplied by α, by onnx's reference in float64."""

    def __init__(self, proto: onnx.ModelProto, model: Model, cut: str) -> None:
        copy = onnx.ModelProto.FromString(proto.SerializeToString())
        graph = copy.graph
        for node in graph.node:
            node.input[:] = [f"{cut}*α" if i == cut else i for i in node.input]
        place = next((i + 1 for i, n in enumerate(graph.node) if cut in n.output), 0)
        graph.node.insert(place, helper.make_node("Mul", [cut, "α"], [f"{cut}*α"]))
        for t in graph.initializer:
            if t.data_type == onnx.TensorProto.FLOAT:
                t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(t).astype(np.float64), t.name))
        graph.input.append(helper.make_tensor_value_info("α", onnx.TensorProto.DOUBLE, []))
        self.values = [str(v.name) for v in objective_of(model).values]
        self.cut = cut
        graph.output.extend(helper.make_empty_tensor_value_info(v) for v in self.values)
        self.evaluator = ReferenceEvaluator(copy, new_ops=DEFINITIONS)
        self.one_by_one = graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1

    def answers(self, inputs: dict[str, np.ndarray], alpha: float) -> list[np.ndarray]:
        """What the objective reads, [n, …] each."""
        feed = {k: v.astype(np.float64) for k, v in inputs.items()} | {"α": np.array(alpha)}
        samples_at_once = [slice(i, i + 1) for i in range(len(next(iter(inputs.values()))))]
        parts = [{k: feed[k][s] for k in inputs} for s in (samples_at_once if self.one_by_one else [slice(None)])]
        found = [self.evaluator.run(self.values, feed | part) for part in parts]
        joined = [np.concatenate(f) for f in zip(*found, strict=True)]
        return [y * alpha if v == self.cut else y for v, y in zip(self.values, joined, strict=True)]

    def __call__(self, inputs: dict[str, np.ndarray], labels: np.ndarray, alpha: float) -> np.ndarray:
        """Softmax outputs, then the loss, [j, n]."""
        (z,) = self.answers(inputs, alpha)
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        return np.vstack([p.T, -np.log(p[np.arange(len(labels)), labels])])

    def deviation(self, inputs: dict[str, np.ndarray], alpha: float) -> np.ndarray:
        """Mean of ½ (y(αh) − y(h))² of every output, summed over the outputs, [n]."""
        pairs = zip(self.answers(inputs, alpha), self.answers(inputs, 1.0), strict=True)
        return sum((0.5 * (a - b) ** 2).reshape(len(a), -1).mean(axis=1) for a, b in pairs)  # type: ignore[return-value]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_summed_attributions_are_the_derivative_along_the_ray(name: str) -> None:
    """With one node a of weight 1, Σ_i A_ij = d/da F_j(a h): the gradient graph against float64 differences."""
    model = network(name)
    inputs, labels = samples(model.inputs, 3), labels_of(model, 3)
    for cut, _ in cuts_of(model):
        f = Scaled(original(name), model, cut)
        for a in (0.35, 1.0):
            found = attributions(model, cut, inputs, labels, ([a], [1]))
            found = by_sample(found, model, cut)
            wanted = (f(inputs, labels, a + 1e-6) - f(inputs, labels, a - 1e-6)) / 2e-6
            np.testing.assert_allclose(found, wanted, rtol=0, atol=ROUNDING * max(np.abs(wanted).max(), 1))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_attributions_are_complete_and_the_gap_says_how_nearly(name: str) -> None:
    """Σ_i A_ij = F_j(h) − F_j(0); `gap` is Σ|Σ_i A − ΔF| / Σ|ΔF| of the worst target, whatever the nodes."""
    model = network(name)
    inputs, labels = samples(model.inputs, 4), labels_of(model, 4)
    for cut, axis in cuts_of(model):
        f = Scaled(original(name), model, cut)
        change = f(inputs, labels, 1.0) - f(inputs, labels, 0.0)
        for steps, tolerance in ((2, np.inf), (16, 0.02)):
            (found,) = attribute(
                model, [(cut, axis)], inputs, labels, target="classes", steps=steps, tolerance=tolerance
            )
            summed = by_sample(attributions(model, cut, inputs, labels, quadrature(found.steps)), model, cut)
            literal = np.max(np.abs(summed - change).sum(axis=1) / np.abs(change).sum(axis=1))
            np.testing.assert_allclose(found.gap, literal, rtol=1e-2, atol=1e-4)  # float32 against float64
            np.testing.assert_allclose(found.sums.sum(axis=(0, 2)), summed.sum(axis=1), rtol=1e-4, atol=1e-4)
        assert found.gap <= 0.02 or found.steps > 512, "neither complete nor at the end of the nodes"


def image_out() -> onnx.ModelProto:
    """An image for an image: up to four times the size, through a transposed convolution."""
    net = Net(11, x=(2, 6, 6))
    y = net.relu(net.conv(net.relu(net.conv("x", 5, strides=[2, 2])), 4))
    y = net.op("ConvTranspose", y, net.weight("up", 4, 3, 2, 2, terms=4), net.bias("up.bias", 3), strides=[2, 2])
    net.conv(net.relu(y), 2)
    return net.proto()


@pytest.mark.parametrize("name", ["image", "two outputs"])
def test_a_network_without_classes_is_ranked_by_the_deviation_from_its_own_answer(name: str) -> None:
    """Σ_i A_i = d/da ½ (y(a h) − y(h))² with one node a, and the integral is complete."""
    proto = image_out() if name == "image" else NETWORK_WITH_TWO_OUTPUTS.proto("dense2", "relu1")
    model = loaded(proto)
    inputs, labels = samples(model.inputs, 3), np.zeros(3, np.int64)
    for cut, axis in cuts_of(model) if name == "image" else [("relu1", 1)]:
        f = Scaled(proto, model, cut)
        wanted = (f.deviation(inputs, 0.35 + 1e-6) - f.deviation(inputs, 0.35 - 1e-6)) / 2e-6
        graph = attribution_graph(model, cut)
        values = [str(v.name) for v in (graph.tail.cut, *graph.tail.objective.values, *graph.tail.context)]
        h, *rest = run(session(with_outputs(model.ir, values)), inputs)
        n = len(graph.tail.objective.values)
        feed = dict(zip(values[1 + n :], rest[n:], strict=True)) | graph.tail.objective.feed(labels, rest[:n])
        at = {INPUT: h, ALPHA: np.array([0.35], np.float32), WEIGHT: np.ones(1, np.float32)}
        found = run(session(graph.ir), feed | at)[0][0].reshape(3, -1).sum(axis=1, dtype=np.float64)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=ROUNDING * max(np.abs(wanted).max(), 1))
        (whole,) = attribute(model, [(cut, axis)], inputs, labels)
        change = -f.deviation(inputs, 0.0)
        assert whole.gap <= 0.02 or whole.steps > 512
        np.testing.assert_allclose(whole.sums.sum(), change.sum(), rtol=0.03)
        np.testing.assert_allclose(whole.change.sum(), np.abs(change).sum(), rtol=1e-4)


# ---- Captum --------------------------------------------------------------------------------------------------------
def torch_layers(torch: Any) -> list[tuple[str, Any]]:
    """The network `alexnet` in torch, in float64: (ONNX value, function that makes it from the one before)."""
    p = {
        t.name: torch.tensor(numpy_helper.to_array(t).astype(np.float64)) for t in original("alexnet").graph.initializer
    }
    F = torch.nn.functional

    def dense(name: str) -> Any:
        return lambda h: F.linear(h, p[f"{name}.weight"], p[f"{name}.bias"])

    return [
        ("conv0", lambda h: F.conv2d(h, p["conv0.weight"], p["conv0.bias"], stride=2, padding=2)),
        ("relu1", F.relu),
        ("maxpool2", lambda h: F.max_pool2d(h, 3, 2)),
        ("conv3", lambda h: F.conv2d(h, p["conv3.weight"], p["conv3.bias"], padding=1)),
        ("relu4", F.relu),
        ("maxpool5", lambda h: F.max_pool2d(h, 2, 1)),
        ("flatten6", lambda h: h.flatten(1)),
        ("dense7", dense("dense7")),
        ("relu8", F.relu),
        ("dropout9", lambda h: h),
        ("dense10", dense("dense10")),
        ("relu11", F.relu),
        ("dense12", dense("dense12")),
    ]


@pytest.mark.parametrize("cut", ["flatten6", "dropout9", "relu11", "maxpool5", "maxpool2", "relu1", "conv3"])
def test_integrated_gradients_are_captums_on_the_split_head(cut: str) -> None:
    """The same 20 Gauss-Legendre nodes on both sides: 5 classes and the loss, every sample and position."""
    torch = pytest.importorskip("torch")
    captum = pytest.importorskip("captum.attr")
    torch.set_num_threads(1)
    model, layers = network("alexnet"), torch_layers(torch)
    split = [name for name, _ in layers].index(cut) + 1
    inputs, labels = samples(model.inputs, 4), labels_of(model, 4)
    h = torch.tensor(inputs["x"].astype(np.float64))
    for _, layer in layers[:split]:
        h = layer(h)

    def logits(value: Any) -> Any:
        for _, layer in layers[split:]:
            value = layer(value)
        return value

    found = attributions(model, cut, inputs, labels, uniform_nodes(20))
    settings = {"n_steps": 20, "method": "gausslegendre"}
    per_class = captum.IntegratedGradients(lambda v: logits(v).softmax(1))
    wanted = [per_class.attribute(h, target=j, **settings).numpy() for j in range(5)]
    y = torch.tensor(labels)
    loss = captum.IntegratedGradients(lambda v, y: torch.nn.functional.cross_entropy(logits(v), y, reduction="none"))
    wanted.append(loss.attribute(h, additional_forward_args=y, **settings).detach().numpy())
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=ROUNDING * np.abs(b).max())


def test_expected_attributions_are_captums_mean_over_the_images_of_a_class() -> None:
    """E^k_ij (eq. 4) and the rank (eq. 6) at the flatten, with our own nodes against 600 of Captum's."""
    torch = pytest.importorskip("torch")
    captum = pytest.importorskip("captum.attr")
    torch.set_num_threads(1)
    model, layers = network("alexnet"), torch_layers(torch)
    inputs, labels = samples(model.inputs, 15), labels_of(model, 15)
    (found,) = attribute(model, [("flatten6", 1)], inputs, labels, target="classes", steps=512, tolerance=1e-3)

    def chain(h: Any, part: Any) -> Any:
        for _, layer in part:
            h = layer(h)
        return h

    h = chain(torch.tensor(inputs["x"].astype(np.float64)), layers[:7])
    per_class = captum.IntegratedGradients(lambda v: chain(v, layers[7:]).softmax(1))
    a = np.stack([per_class.attribute(h, target=j, n_steps=600).numpy() for j in range(5)])
    for k in range(5):
        wanted = a[:, labels == k].mean(axis=1)
        # two rules that miss the kinks of ReLU by 1/n each
        np.testing.assert_allclose(found.conditional[k, :5], wanted, rtol=0, atol=2e-3 * np.abs(wanted).max())


# ---- eq. 2, written out --------------------------------------------------------------------------------------------
def test_attributions_equal_equation_2_written_out() -> None:
    """A_ij = h_i ∫ ∂F_j(αh)/∂h_i dα by 2000 midpoints and central differences, one unit, class and sample at a time."""
    model = network("mlp")
    p = {n: v.const_value.numpy().astype(np.float64) for n, v in model.graph.initializers.items()}
    inputs, labels = samples(model.inputs, 3), labels_of(model, 3)

    def softmax_behind(h: np.ndarray) -> np.ndarray:  # [n, units of dense0] -> [n, classes]
        h = np.maximum(h @ p["dense2.weight"] + p["dense2.bias"], 0)
        z = h @ p["dense4.weight"].T + p["dense4.bias"]
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)

    h = np.maximum(inputs["x"].astype(np.float64) @ p["dense0.weight"].T + p["dense0.bias"], 0)
    alphas = (np.arange(2000) + 0.5) / 2000
    wanted = np.zeros((5, *h.shape))
    for b in range(3):
        ray = alphas[:, None] * h[b]
        for i in range(h.shape[1]):
            step = np.zeros(h.shape[1])
            step[i] = 1e-6
            up, down = softmax_behind(ray + step), softmax_behind(ray - step)
            for j in range(4):
                wanted[j, b, i] = h[b, i] * np.mean((up[:, j] - down[:, j]) / 2e-6)
            loss = -np.log(up[:, labels[b]]) + np.log(down[:, labels[b]])
            wanted[4, b, i] = h[b, i] * np.mean(loss / 2e-6)
    found = attributions(model, "relu1", inputs, labels, quadrature(512))
    np.testing.assert_allclose(
        found, wanted, rtol=0, atol=1e-3 * np.abs(wanted).max()
    )  # midpoints miss a kink by 1/2000


# ---- algebra -------------------------------------------------------------------------------------------------------
def reachable_cuts(model: Model) -> list[str]:
    """Every float activation that splits the network and can be differentiated behind."""
    found = []
    for value in (v for n in model.graph for v in n.outputs):
        try:
            attribution_graph(model, str(value.name))
        except Unsupported:
            continue
        found.append(str(value.name))
    return found


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_hoisting_changes_no_attribution(name: str) -> None:
    """At every value of every network, inside residual branches, gates and attention too."""
    model = network(name)
    inputs, labels = samples(model.inputs, 3), labels_of(model, 3)
    cuts = reachable_cuts(model)
    assert {c for c, _ in cuts_of(model)} <= set(cuts)
    for cut in cuts:
        plain, hoisted = (attributions(model, cut, inputs, labels, quadrature(3), hoist=h) for h in (False, True))
        np.testing.assert_allclose(hoisted, plain, rtol=0, atol=ROUNDING * max(np.abs(plain).max(), 1e-3))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_mixing_the_differences_of_logits_changes_no_attribution(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(name)
    inputs, labels = samples(model.inputs, 3), labels_of(model, 3)
    for cut, _ in cuts_of(model):
        mixed = attributions(model, cut, inputs, labels, quadrature(3))
        with monkeypatch.context() as patch:
            patch.setattr(objective, "MOST_MIXED", 1)
            plain = attributions(model, cut, inputs, labels, quadrature(3))
        for a, b in zip(mixed, plain, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=ROUNDING * max(np.abs(b).max(), 1e-3))


@pytest.mark.parametrize("name", ["alexnet", "residual", "excitation"])
def test_convolutions_of_few_places_may_be_matrix_products(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(name)
    inputs, labels = samples(model.inputs, 3), labels_of(model, 3)
    for cut, _ in cuts_of(model):
        plain = attributions(model, cut, inputs, labels, quadrature(3))
        with monkeypatch.context() as patch:
            patch.setattr(matrices, "HEAVY", 0)
            patch.setattr(matrices, "FEW", 1000)
            product = attributions(model, cut, inputs, labels, quadrature(3))
        np.testing.assert_allclose(product, plain, rtol=0, atol=ROUNDING * max(np.abs(plain).max(), 1e-3))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_graph_of_units_gives_the_sums_over_each_units_elements(name: str) -> None:
    """[K, rows, units], wherever the batch lies in the cut."""
    model = network(name)
    inputs, labels = samples(model.inputs, 3), labels_of(model, 3)
    for cut, axis in cuts_of(model):
        batch = along_batch(tail_of(model, cut).cut)
        whole, by_unit = (attributions(model, cut, inputs, labels, quadrature(3), axis=a) for a in (None, axis))
        wanted = np.moveaxis(whole.astype(np.float64), (1 + batch, 1 + axis), (1, 2))
        wanted = wanted.reshape(*wanted.shape[:3], -1).sum(axis=3)
        np.testing.assert_allclose(by_unit, wanted, rtol=0, atol=1e-5 * max(np.abs(whole).max(), 1e-3))  # float32 sums


@settings(max_examples=12)
@given(net=cnns())
def test_hoisting_changes_no_attribution_of_a_random_network(net: Net) -> None:
    model = loaded(net.proto())
    inputs, labels = samples(model.inputs, 2), labels_of(model, 2)
    for cut, _ in cuts_of(model):
        plain, hoisted = (attributions(model, cut, inputs, labels, quadrature(3), hoist=h) for h in (False, True))
        np.testing.assert_allclose(hoisted, plain, rtol=0, atol=ROUNDING * max(np.abs(plain).max(), 1e-3))


@pytest.mark.parametrize(
    ("name", "cut", "nodes"),
    [
        ("alexnet", "flatten6", 1),  # the first dense layer; the ReLU behind its bias bends
        ("alexnet", "relu4", 3),  # MaxPool, Flatten, dense
        ("alexnet", "relu11", 1),  # all of it: the logits are affine
        ("alexnet", "conv3", 4),  # ReLU and MaxPool too: no bias since the cut
        ("residual", "relu24", 3),  # GlobalAveragePool, Flatten, dense
        ("residual", "relu5", 3),  # Conv, BatchNormalization, Add: what is added from beside the cut is one more bias
    ],
)
def test_the_straight_part_is_taken_out_of_the_integral(name: str, cut: str, nodes: int) -> None:
    assert attribution_graph(network(name), cut).hoisted == nodes


def test_a_value_inside_a_residual_branch_is_cut_with_its_context() -> None:
    model = network("residual")
    tail = tail_of(model, "relu5")
    assert [v.name for v in tail.context] == ["relu2"]
    assert [n.op_type for n in tail.nodes[:4]] == ["Conv", "BatchNormalization", "Add", "Relu"]


@pytest.mark.parametrize("name", ["alexnet", "excitation", "two_heads"])
def test_attributions_to_all_classes_sum_to_zero_behind_a_softmax(name: str) -> None:
    model = network(name)
    inputs, labels = samples(model.inputs, 5), labels_of(model, 5)
    for cut, _ in cuts_of(model):
        a = attributions(model, cut, inputs, labels, quadrature(8))[:-1]
        assert np.abs(a.sum(axis=0)).max() <= 1e-5 * np.abs(a).max()  # float32 sums over the classes


def test_the_law_of_total_expectation_holds() -> None:
    """E_ij = Σ_k E^k_ij P(y = k) (eq. 5), with classes of unequal size and one without a sample."""
    model = network("alexnet")
    inputs, labels = samples(model.inputs, 11), np.array([0, 0, 0, 1, 1, 1, 1, 1, 2, 3, 3])
    (found,) = attribute(model, [("dropout9", 1)], inputs, labels, target="classes")
    share = found.counts / found.counts.sum()
    assert found.counts.tolist() == [3, 5, 1, 2, 0]
    np.testing.assert_allclose(np.einsum("kji,k->ji", found.conditional, share), found.expected, rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(found.rank, -found.expected[-1])
    assert not found.conditional[4].any()


def test_a_dead_unit_has_rank_zero_and_is_counted() -> None:
    net = Net(4, x=(6,))
    y = net.dense("x", 8)
    net.parameters["dense0.bias"][[2, 5]] = -1e4
    net.head(net.relu(y))
    model = net.model()
    inputs, labels = samples(model.inputs, 20), labels_of(model, 20)
    (found,) = attribute(model, [("relu1", 1)], inputs, labels, target="classes")
    assert np.flatnonzero(~found.is_live).tolist() == [2, 5]
    assert (
        not found.sums[:, :, [2, 5]].any() and not found.absolute[:, :, [2, 5]].any() and not found.rank[[2, 5]].any()
    )
    assert found.absolute[:, :, [0, 1, 3, 4, 6, 7]].any(axis=(0, 1)).all()


def test_merging_halves_equals_the_whole() -> None:
    model = network("residual")
    inputs, labels = samples(model.inputs, 14), labels_of(model, 14)
    cuts = cuts_of(model)
    fixed: dict[str, Any] = {"target": "classes", "steps": 8, "tolerance": np.inf}
    whole = attribute(model, cuts, inputs, labels, **fixed)
    parts = [
        attribute(model, cuts, {k: v[s] for k, v in inputs.items()}, labels[s], **fixed)
        for s in (slice(5), slice(5, None))
    ]
    small = attribute(model, cuts, inputs, labels, **fixed, max_memory=1)  # one sample at a time
    for a, first, second, alone in zip(whole, *parts, small, strict=True):
        for other in (first.merged(second), second.merged(first), alone):
            np.testing.assert_allclose(other.sums, a.sums, rtol=1e-4, atol=1e-5 * np.abs(a.sums).max())
            np.testing.assert_allclose(other.absolute, a.absolute, rtol=1e-4, atol=1e-5 * a.absolute.max())
            np.testing.assert_array_equal(other.counts, a.counts)
            np.testing.assert_array_equal(other.is_live, a.is_live)
            np.testing.assert_allclose(other.gap, a.gap, rtol=1e-3, atol=1e-6)


def test_the_same_samples_give_the_same_bytes() -> None:
    model = network("excitation")
    inputs, labels = samples(model.inputs, 9), labels_of(model, 9)
    first, second = (attribute(model, cuts_of(model), inputs, labels) for _ in range(2))
    assert all(a.sums.tobytes() == b.sums.tobytes() for a, b in zip(first, second, strict=True))


def test_taylor_is_the_gradient_at_h_times_h() -> None:
    model = network("mlp")
    inputs, labels = samples(model.inputs, 5), labels_of(model, 5)
    (found,) = attribute(model, [("relu1", 1)], inputs, labels, at_h_only=True)
    a = attributions(model, "relu1", inputs, labels, ([1.0], [1.0]))[-1].astype(np.float64)
    np.testing.assert_allclose(found.sums.sum(axis=0)[0], a.sum(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.absolute.sum(axis=0)[0], np.abs(a).sum(axis=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 5, 16, 64])
def test_the_quadrature_is_exact_for_polynomials_of_its_degree(steps: int) -> None:
    alpha, weight = (a.astype(np.float64) for a in quadrature(steps))
    assert ((alpha > 0) & (alpha < 1)).all()
    for degree in range(min(steps, 12)):
        np.testing.assert_allclose((weight * alpha**degree).sum(), 1 / (degree + 1), rtol=1e-6)  # float32 nodes


# ---- refusals ------------------------------------------------------------------------------------------------------
def refused(model: Model, cut: str) -> str:
    with pytest.raises(Unsupported) as caught:
        attribute(model, [(cut, 1)], samples(model.inputs, 2), np.zeros(2, np.int64))
    assert caught.value.exit_code == 4
    return str(caught.value)


def test_what_cannot_be_attributed_is_refused() -> None:
    with pytest.raises(UsageError, match=r"there is no value 'relu2' to cut at. Did you mean 'relu3'"):
        attribute(network("mlp"), [("relu2", 1)], samples({"x": (4,)}, 2), np.zeros(2, np.int64))
    decoder = network("decoder")
    for asked, told in ({"target": "classes"}, "is not"), ({"at_h_only": True}, "has no slope at h"):
        with pytest.raises((Unsupported, UsageError), match=told):
            attribute(decoder, [("relu1", 1)], samples(decoder.inputs, 2), np.zeros(2, np.int64), **asked)


def test_a_cut_behind_the_logits_is_refused() -> None:
    assert "does not lead to the output" in refused(network("two_heads"), "softmax14")


def test_a_cut_that_mixes_the_rows_of_samples_is_refused() -> None:
    """[T, N, d] as [T·N, d]: no block of rows is a sample's."""
    net = Net(8, x=(4, 6))
    y = net.op("Reshape", net.op("Transpose", net.op("Tanh", "x"), perm=[1, 0, 2]), np.array([-1, 6], np.int64))
    y = net.op("MatMul", net.relu(net.op("MatMul", y, net.weight("a", 6, 5, terms=6))), net.weight("b", 5, 3, terms=5))
    net.op("ReduceMean", net.op("Reshape", y, np.array([4, -1, 3], np.int64)), np.array([0], np.int64), keepdims=0)
    assert "do not lie side by side" in refused(net.model(), "relu4")


NETWORK_WITH_TWO_OUTPUTS = Net(6, x=(4,))
NETWORK_WITH_TWO_OUTPUTS.head(NETWORK_WITH_TWO_OUTPUTS.relu(NETWORK_WITH_TWO_OUTPUTS.dense("x", 6)))

"""Laws of the torch module: it answers what onnxruntime does, and hands the model back as it was."""

from __future__ import annotations

import numpy as np
import pytest
from compress.networks import NETWORKS, Net, cnns, network, samples
from hypothesis import given, settings

from toolchain.compress.groups import analyse
from toolchain.compress.surgery import mask
from toolchain.errors import Unsupported, UsageError
from toolchain.model import Model
from toolchain.session import run, session

torch = pytest.importorskip("torch", reason="torch is what is tested")

from toolchain.retrain import from_torch, to_torch  # noqa: E402
from toolchain.retrain.network import name_of  # noqa: E402

ROUNDING = 1e-5  # of the largest output
IN_TORCH = [n for n in NETWORKS if n != "recurrent"]


def feed_of(model: Model, n: int = 5) -> dict[str, np.ndarray]:
    return samples(model.inputs, n if model.batch == "free" else int(model.batch), seed=3)


def said(module: torch.nn.Module, model: Model, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    with torch.no_grad():
        found = module(*(torch.from_numpy(feed[n]) for n in model.inputs))
    return [y.numpy() for y in (found if isinstance(found, tuple) else (found,))]


def agrees(model: Model) -> None:
    feed = feed_of(model)
    for y, z in zip(said(to_torch(model), model, feed), run(session(model.ir), feed), strict=True):
        np.testing.assert_allclose(y, z, rtol=0, atol=ROUNDING * float(np.abs(z).max()))


def trained(model: Model) -> set[str]:
    return {name_of(key) for key, _ in to_torch(model).named_parameters()}


@pytest.mark.parametrize("name", IN_TORCH)
def test_the_module_answers_what_onnxruntime_does(name: str) -> None:
    agrees(network(name))


@settings(max_examples=25)
@given(cnns())
def test_random_networks_answer_what_onnxruntime_does(net: Net) -> None:
    agrees(net.model())


@pytest.mark.parametrize("name", IN_TORCH)
def test_a_masked_network_answers_what_onnxruntime_does(name: str) -> None:
    channels = analyse(network(name))
    removed = np.array([u for g in channels.groups for u in g.units[: len(g) // 2]], np.int64)
    agrees(mask(network(name), channels, removed))


@pytest.mark.parametrize("name", IN_TORCH)
def test_there_and_back_is_the_same_file(name: str) -> None:
    model = network(name)
    assert from_torch(to_torch(model)).to_bytes() == model.to_bytes()


def test_weights_go_back_under_their_names_and_the_model_stays_as_it_was() -> None:
    model, module = network("residual"), to_torch(network("residual"))
    before = model.to_bytes()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.5)
    changed = from_torch(module)
    assert model.to_bytes() == before
    for name, value in model.graph.initializers.items():
        factor = 1.5 if name in trained(model) else 1
        array = changed.graph.initializers[name].const_value.numpy()
        np.testing.assert_array_equal(array, value.const_value.numpy() * np.float32(factor))


def test_any_name_is_allowed() -> None:
    net = Net(1, x=(6,))
    y = "x"
    for number, name in enumerate(("a.b", "type", "training", "100%", "%2E", "forward", "keys")):
        y = net.relu(net.op("MatMul", y, net.weight(name, 6, 6, terms=6), name=f"m{number}"))
    net.head(y)
    model = net.model()
    assert trained(model) == set(model.graph.initializers)
    agrees(model)
    assert from_torch(to_torch(model)).to_bytes() == model.to_bytes()


def test_weights_that_nodes_share_are_one_parameter() -> None:
    model = network("siamese")
    module = to_torch(model)
    sizes = [p.numel() for p in module.parameters()]
    assert sum(sizes) == sum(v.const_value.numpy().size for v in model.graph.initializers.values())
    inputs = [torch.from_numpy(x).requires_grad_() for x in feed_of(model).values()]
    module(*inputs).sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in module.parameters())


def test_what_is_no_weight_is_not_trained() -> None:
    net = Net(2, x=(4, 6, 6))
    y = net.op("Div", net.op("Sub", "x", np.full((4, 1, 1), 0.1, np.float32)), np.full((4, 1, 1), 0.9, np.float32))
    y = net.relu(net.norm(net.conv(y, 8)))
    y = net.op("Mul", net.op("Clip", y, np.array(0, np.float32), np.array(6, np.float32)), np.array(0.5, np.float32))
    y = net.op("Mul", y, np.linspace(0.5, 1, 8, dtype=np.float32).reshape(8, 1, 1), name="gamma")
    y = net.op("Mul", y, (np.arange(8) % 2).astype(np.float32).reshape(8, 1, 1), name="mask")
    y = net.op("Add", y, np.where(np.arange(6) < 3, 0, -1e9).astype(np.float32), name="infinity")
    y = net.op("Add", net.op("Relu", y), np.linspace(0, 1, 36, dtype=np.float32).reshape(6, 6), name="position")
    net.head(net.pooled(y))
    model = net.model()
    conv, norm = (next(n.name for n in model.graph if n.op_type == k) for k in ("Conv", "BatchNormalization"))
    head = next(n.name for n in model.graph if n.op_type == "Gemm")
    wanted = {f"{n}.{p}" for n in (conv, head) for p in ("weight", "bias")} | {f"{norm}.scale", f"{norm}.shift"}
    found = trained(model)
    assert found >= {f"{conv}.weight", f"{head}.weight", "gamma.1", "position.1"}
    assert len(found) == len(wanted) + 2
    assert not {
        n for n in found if n.startswith(("mask", "infinity", "sub", "div", "clip")) or n.endswith(("mean", "var"))
    }


def test_while_training_a_norm_follows_the_batch_and_onnx_momentum_says_what_stays() -> None:
    net, momentum = Net(3, x=(4, 5, 3)), 0.7
    w = {k: net.generator.uniform(0.5, 2, 4).astype(np.float32) for k in ("scale", "shift", "mean", "var")}
    net.op("BatchNormalization", "x", *w.values(), name="norm", momentum=momentum, epsilon=1e-3)
    model, feed = net.model(), samples({"x": (4, 5, 3)}, 6, seed=1)
    module, x = to_torch(model), feed["x"].astype(np.float64)
    axes, shape = (0, 2, 3), (4, 1, 1)
    stored = (x - w["mean"].reshape(shape)) / np.sqrt(w["var"].reshape(shape) + 1e-3)
    mean, var = x.mean(axes), x.var(axes)
    batch = (x - mean.reshape(shape)) / np.sqrt(var.reshape(shape) + 1e-3)
    for mode, unit in ((False, stored), (True, batch)):
        (y,) = said(module.train(mode), model, feed)
        np.testing.assert_allclose(
            y, unit * w["scale"].reshape(shape) + w["shift"].reshape(shape), rtol=1e-4, atol=1e-5
        )
    count = x.size / 4
    after = from_torch(module).graph.initializers
    for name, old, new in (("norm.3", w["mean"], mean), ("norm.4", w["var"], var * count / (count - 1))):
        wanted = momentum * old + (1 - momentum) * new
        np.testing.assert_allclose(after[name].const_value.numpy(), wanted, rtol=1e-5)


def test_a_frozen_norm_keeps_its_statistics_while_training() -> None:
    model = network("residual")
    module = to_torch(model).train().requires_grad_(False)
    said(module, model, feed_of(model))
    assert from_torch(module).to_bytes() == model.to_bytes()


def test_a_node_without_a_torch_form_is_refused_by_name() -> None:
    with pytest.raises(Unsupported, match=r"LSTM 'lstm3' has no torch form\. .*jettison recover"):
        to_torch(network("recurrent"))


def test_indices_of_a_pool_that_are_read_are_refused_by_name() -> None:
    net = Net(4, x=(2, 4, 4))
    net.op("MaxPool", "x", kernel_shape=[2, 2], outputs=2, name="pool")
    net.op("Cast", "pool:1", to=1)
    with pytest.raises(Unsupported, match="MaxPool 'pool' has no torch form: its indices are read"):
        said(to_torch(net.model()), net.model(), feed_of(net.model()))


def test_only_a_module_of_to_torch_goes_back() -> None:
    with pytest.raises(UsageError, match="Linear was not made by to_torch"):
        from_torch(torch.nn.Linear(2, 2))

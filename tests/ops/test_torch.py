"""What an op computes in torch, over every row of cases.py, against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from cases import CASES, Case
from ops.test_laws import (
    DERIVABLE,
    ROUNDING,
    K,
    concrete,
    derivable,
    gradients,
    model_of,
    name_of,
    proto,
    single_precision,
)

from toolchain.ops import OPS
from toolchain.session import session

torch = pytest.importorskip("torch", reason="the other side of this comparison is torch")

FORWARD = [c for c in CASES if OPS[c.op].torch is not None]


def tensors(case: Case, feed: dict[str, np.ndarray], dtype: type = np.float32) -> list[Any]:
    """Every input of the node, floats as `dtype`; what is computed or learnt in need of a gradient."""
    moving = {*map(name_of, OPS[case.op].learns or ()), *derivable(case)}
    found = []
    for i, x in enumerate(case.inputs):
        array = feed.get(name_of(i), x)
        tensor = None if array is None else torch.from_numpy(np.array(array))
        if tensor is not None and tensor.is_floating_point():
            tensor = torch.from_numpy(array.astype(dtype)).requires_grad_(name_of(i) in moving)
        found.append(tensor)
    return found


def computed(case: Case, read: list[Any]) -> Any:
    """The table's rule; the first output."""
    found = OPS[case.op].torch(torch, model_of(case).graph[0], read)
    return found[0] if isinstance(found, tuple) else found


@pytest.mark.parametrize("case", FORWARD, ids=str)
def test_an_op_computes_in_torch_what_it_does_in_onnxruntime(case: Case) -> None:
    feed = single_precision(concrete(case))
    wanted = session(ir.from_proto(proto(case))).run(["y0"], feed)[0]
    found = computed(case, tensors(case, feed)).detach().numpy()
    assert found.dtype == wanted.dtype and found.shape == wanted.shape
    scale = np.abs(wanted).max(initial=1) if wanted.dtype.kind == "f" else 0
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("case", DERIVABLE, ids=str)
def test_a_gradient_rule_agrees_with_torch(case: Case) -> None:
    """Ranking and retraining go down the same slope: our Jᵀu is torch's, in float64."""
    feed = concrete(case)
    read = tensors(case, feed, np.float64)
    y = computed(case, read)
    u = np.random.default_rng(3).standard_normal((K, *y.shape))
    back = gradients(case, feed, u)
    leaves = [read[int(name[1:])] for name in derivable(case)]
    for k in range(K):
        wanted = torch.autograd.grad(y, leaves, torch.tensor(u[k]), retain_graph=True, allow_unused=True)
        for name, leaf, g in zip(derivable(case), leaves, wanted, strict=True):
            slope = np.zeros(leaf.shape) if g is None else g.numpy()
            scale = max(float(np.abs(slope).max()), 1e-3)
            np.testing.assert_allclose(back[name][k], slope, rtol=0, atol=ROUNDING * scale)


@pytest.mark.parametrize("case", [c for c in CASES if OPS[c.op].trains is not None], ids=str)
def test_training_moves_what_follows_the_batches_and_nothing_else(case: Case) -> None:
    read = [None if x is None else x.detach() for x in tensors(case, single_precision(concrete(case)))]
    before = [None if x is None else x.clone() for x in read]
    OPS[case.op].trains(torch, model_of(case).graph[0], read)
    moved = [i for i, x in enumerate(before) if x is not None and not torch.equal(x, read[i])]
    assert moved == list(OPS[case.op].follows or ())


@pytest.mark.parametrize("name", [name for name, entry in OPS.items() if entry.fixed is not None])
def test_one_number_is_no_weight_and_a_matrix_of_many_is(name: str) -> None:
    assert OPS[name].learns
    assert OPS[name].fixed(np.float32([0.3])) and not OPS[name].fixed(np.linspace(-1, 1, 6, dtype=np.float32))


@pytest.mark.parametrize("case", [c for c in CASES if OPS[c.op].learns], ids=str)
def test_what_an_op_learns_has_a_slope(case: Case) -> None:
    read = tensors(case, single_precision(concrete(case)))
    learnt = [read[i] for i in OPS[case.op].learns or () if i < len(read) and read[i] is not None]
    assert learnt
    y = computed(case, read)
    weight = torch.from_numpy(np.random.default_rng(4).standard_normal(tuple(y.shape)).astype(np.float32))
    for slope in torch.autograd.grad((y * weight).sum(), learnt):
        assert bool(slope.abs().sum() > 0)


def test_every_op_with_a_gradient_rule_has_a_torch_form() -> None:
    assert {n for n, entry in OPS.items() if entry.vjp is not None and entry.torch is None} == set()

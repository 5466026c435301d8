"""What an op computes in torch, over every row of cases.py, against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from cases import CASES, Case
from ops.test_laws import concrete, model_of, name_of, proto, single_precision

from toolchain.ops import OPS
from toolchain.session import session

torch = pytest.importorskip("torch", reason="the other side of this comparison is torch")

FORWARD = [c for c in CASES if OPS[c.op].torch is not None]


def computed(case: Case, feed: dict[str, np.ndarray]) -> Any:
    """The table's rule on tensors of the same values."""
    arrays = [feed.get(name_of(i), x) for i, x in enumerate(case.inputs)]
    tensors = [None if a is None else torch.from_numpy(np.array(a)) for a in arrays]
    found = OPS[case.op].torch(torch, model_of(case).graph[0], tensors)
    return (found[0] if isinstance(found, tuple) else found).numpy()


@pytest.mark.parametrize("case", FORWARD, ids=str)
def test_an_op_computes_in_torch_what_it_does_in_onnxruntime(case: Case) -> None:
    feed = single_precision(concrete(case))
    wanted = session(ir.from_proto(proto(case))).run(["y0"], feed)[0]
    found = computed(case, feed)
    assert found.dtype == wanted.dtype and found.shape == wanted.shape
    scale = np.abs(wanted).max(initial=1) if wanted.dtype.kind == "f" else 0
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * scale)


def test_every_op_with_a_gradient_rule_has_a_torch_form() -> None:
    assert {n for n, entry in OPS.items() if entry.vjp is not None and entry.torch is None} == set()

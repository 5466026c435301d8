"""jettison verify checks the chain: a pruned file names its network and its plan, and must not name others."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from test_cli import SHIPPED, jettison


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cut.onnx and the plan.json that made it."""
    folder = tmp_path_factory.mktemp("cut")
    done = jettison("prune", SHIPPED, "--budget", "units<=50%", "-o", "cut.onnx", "--plan-out", "plan.json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def saying(folder: Path, **told: str | None) -> Path:
    """The cut with other words on where it comes from; None takes them out."""
    model = onnx.load(folder / "cut.onnx")
    said = {p.key: p.value for p in model.metadata_props} | {f"jettison.{k}": v for k, v in told.items()}
    del model.metadata_props[:]
    for key, value in said.items():
        if value is not None:
            model.metadata_props.add(key=key, value=value)
    path = folder / "said.onnx"
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("told", "code", "why"),
    [
        ({}, 0, ""),
        ({"source_sha256": None, "plan_sha256": None}, 0, ""),
        ({"source_sha256": "0" * 64}, 1, "the chain breaks at"),
        ({"plan_sha256": "0" * 64}, 1, "the chain breaks at"),
        ({"source_sha256": "x", "plan_sha256": "x"}, 1, "the chain breaks at"),
    ],
)
def test_a_file_that_names_another_origin_is_not_proved(
    told: dict[str, str | None], code: int, why: str, cut: Path
) -> None:
    done = jettison("verify", SHIPPED, saying(cut, **told), "--plan", cut / "plan.json")
    assert done.returncode == code and why in done.stderr, done.stderr

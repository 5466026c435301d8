"""Criterion auto from the command line: what was tried is told, and what was taken is in the files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from test_cli import SHIPPED, jettison

from toolchain.auto import CANDIDATES
from toolchain.synthetic import triangles_squares


def test_auto_tells_what_was_tried_and_keeps_the_one_that_changes_fewest_answers(tmp_path: Path) -> None:
    x, y = triangles_squares(96, 32, 7)
    data = tmp_path / "data.npz"
    np.savez(data, x=x, y=y)
    out = tmp_path / "out"
    options = ["--criterion", "auto", "--steps", "2", "--samples", "16", "--to", "onnx"]
    run = jettison("compress", str(SHIPPED), "--data", str(data), "--budget", "macs<=40%", "-o", str(out), *options)
    assert run.returncode in (0, 1), run.stderr  # 1: a latency check, which a busy machine may fail
    ranking = json.loads((out / "report.json").read_text())["ranking"]
    assert ranking["chosen_by"] == "auto" and set(ranking["trials"]) == set(CANDIDATES)
    changed = {name: trial["changed"] for name, trial in ranking["trials"].items()}
    assert changed[ranking["criterion"]] == min(changed.values())


def test_auto_without_samples_is_refused_with_a_way_out(tmp_path: Path) -> None:
    run = jettison("rank", str(SHIPPED), "--criterion", "auto", "-o", str(tmp_path / "ranks.npz"))
    assert run.returncode == 2
    assert "criterion 'auto' needs samples" in run.stderr

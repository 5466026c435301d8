"""RISE finds what a network looks at, and a small run of the reproduction has every row and picture."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch trains")
pytest.importorskip("benchmarks.reproduce", reason="run pytest from the repository root")

from benchmarks.reproduce import train_triangles_squares, triangles_squares
from toolchain.explain.heatmaps import METHODS
from toolchain.explain.quality import Watched


def test_rise_points_at_the_only_place_that_a_network_reads() -> None:
    images = np.ones((2, 1, 24, 24), np.float32)
    places = [(5, 17), (18, 3)]
    predict = lambda x: np.stack([x[:, 0, r - 1 : r + 2, c - 1 : c + 2].mean(axis=(1, 2)) for r, c in places], axis=1)
    found = triangles_squares.rise(Watched(predict, images, np.array([0, 1])))
    for (row, column), each in zip(places, found, strict=True):
        top = np.unravel_index(each.argmax(), each.shape)
        assert abs(top[0] - row) <= 2 and abs(top[1] - column) <= 2  # a cell of its masks is 3 pixels wide
    # masks are kept with the same chance everywhere: a score that no pixel changes gives a flat map of that score
    flat = triangles_squares.rise(Watched(lambda x: np.full((len(x), 1), 0.8), images, np.array([0, 0])))
    np.testing.assert_allclose(flat, 0.8, atol=0.1)


def test_a_small_run_writes_a_row_for_each_method_and_fill_and_a_picture_of_each_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_triangles_squares, "EPOCH_IMAGES", 128)
    for name, value in (("JUDGED", 4), ("TEST_IMAGES", 40), ("RISE_MASKS", 20), ("ORDERS", 2)):
        monkeypatch.setattr(triangles_squares, name, value)
    words = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out"), "--epochs", "1"]
    triangles_squares.main([*words, "--sets", "triangles-squares-32"])
    with (tmp_path / "out" / "quality.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["fill"], r["method"]) for r in rows] == [
        (fill, m) for fill in triangles_squares.FILLS for m in (*METHODS, "rise", "random")
    ]
    assert all(r["pointing"] and r["IoU"] for r in rows)
    facts = json.loads((tmp_path / "out" / "facts.json").read_text())
    assert 0 <= facts["triangles-squares-32"]["accuracy"] <= 1
    pictures = {p.name for p in (tmp_path / "out").iterdir() if p.suffix in (".svg", ".png")}
    assert pictures == {
        "perturbation-triangles-squares-32-mean.svg",
        "perturbation-triangles-squares-32-noise.svg",
        "heatmaps-triangles-squares-32.png",
    }

"""Proofs that two networks are the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

from toolchain.model import load
from toolchain.verify import compare

EMPTY = """<ir_version: 10, opset_import: ["": 20]> net (float[N, 4] x) => (float[N, K] y)
    <int64[1] from = {9}, int64[1] to = {9}, int64[1] axis = {1}> { y = Slice (x, from, to, axis) }"""
TWICE = """<ir_version: 10, opset_import: ["": 20]> net (float[N, 4] x) => (float[N, 4] y) { y = Add (x, x) }"""
MORE = TWICE.replace("Add (x, x)", "Sub (x, x)")


def answered(text: str, other: str, folder: Path) -> tuple[float, int, bool]:
    """max_rel, equal answers of six and whether the proof holds."""
    models = []
    for name, source in (("a", text), ("b", other)):
        onnx.save(parser.parse_model(source), folder / f"{name}.onnx")
        models.append(load(folder / f"{name}.onnx"))
    samples = {"x": np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)}
    proof = compare(*models, samples, "itself")
    return proof.max_rel, proof.argmax_equal, proof.passed


@pytest.mark.parametrize("text", [EMPTY, TWICE], ids=["no numbers", "numbers"])
def test_a_network_answers_like_itself(text: str, tmp_path: Path) -> None:
    assert answered(text, text, tmp_path) == (0, 6, True)


def test_another_network_does_not(tmp_path: Path) -> None:
    relative, _, passed = answered(TWICE, MORE, tmp_path)
    assert relative == 1 and not passed

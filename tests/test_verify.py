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
LESS, HALF = TWICE.replace("Add (x, x)", "Neg (x)"), TWICE.replace("Add (x, x)", "Identity (x)")

HEAD = '<ir_version: 10, opset_import: ["": 20]>'
TURNS = " { v = Identity (x) "  # a network that answers otherwise turns the sign
WINDOWS = f"{HEAD} net (float[N, 4] x) => (float[M, 2] y) <int64[2] to = {{-1, 2}}> {TURNS} y = Reshape (v, to) }}"
BEHIND = f"{HEAD} net (float[N, 4] x) => (float[4, N] y) {TURNS} y = Transpose <perm = [1, 0]> (v) }}"
MIXED = f"""{HEAD} net (float[N, 4] x) => (float[M, 2] y) <int64[2] to = {{-1, 2}}> {TURNS}
    t = Transpose <perm = [1, 0]> (v) y = Reshape (t, to) }}"""
ONE = f"{HEAD} net (float[N, 4] x) => (float y) {TURNS} y = ReduceSum <keepdims = 0> (v) }}"
THREES = f"""{HEAD} net (float[3, 4] x) => (float[3, 4] y) <float[3, 3] m = {{1, 2, 0, 0, 1, 0, 0, 0, 1}}> {TURNS}
    y = MatMul (m, v) }}"""


def answered(text: str, other: str, folder: Path) -> tuple[float, int, bool]:
    """max_rel, equal answers of six and whether the proof holds."""
    models = []
    for name, source in (("a", text), ("b", other)):
        onnx.save(parser.parse_model(source), folder / f"{name}.onnx")
        models.append(load(folder / f"{name}.onnx"))
    samples = {"x": np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)}
    proof = compare(*models, samples, "itself")
    return proof.max_rel, proof.argmax_equal, proof.passed


@pytest.mark.parametrize(
    "text",
    [EMPTY, TWICE, WINDOWS, BEHIND, MIXED, ONE, THREES],
    ids=["no numbers", "numbers", "two rows each", "samples behind", "rows of all", "one for all", "three at a time"],
)
def test_a_network_answers_like_itself(text: str, tmp_path: Path) -> None:
    assert answered(text, text, tmp_path) == (0, 6, True)


@pytest.mark.parametrize("text", [WINDOWS, BEHIND, THREES], ids=["two rows each", "samples behind", "three at a time"])
def test_answers_are_those_of_samples_wherever_these_lie(text: str, tmp_path: Path) -> None:
    relative, equal, passed = answered(text, text.replace("Identity", "Neg"), tmp_path)
    assert relative > 0.1 and equal == 0 and not passed


@pytest.mark.parametrize(("other", "same"), [(LESS, 0), (HALF, 6)], ids=["other answers", "the same answers"])
def test_another_network_does_not_and_its_answers_are_counted_as_they_are(
    other: str, same: int, tmp_path: Path
) -> None:
    relative, equal, passed = answered(TWICE, other, tmp_path)
    assert relative > 0.1 and equal == same and not passed

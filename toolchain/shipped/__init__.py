"""The trained network that comes with the package: what it is and how it was made stands in README.md beside it."""

from __future__ import annotations

from pathlib import Path


def triangles_squares_path() -> Path:
    """The ONNX file that tells triangles from squares: image [N, 1, 32, 32] in 0..1 -> logits [N, 2]."""
    return Path(__file__).with_name("triangles_squares.onnx")

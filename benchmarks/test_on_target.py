"""Latency of the network that ships with jettison, whole and halved, on any target, as pytest-benchmark records it.

    pytest benchmarks/test_on_target.py [--on-target qemu-a53 | ssh://user@host] --benchmark-json=FILE

`--benchmark-autosave` keeps a run, `--benchmark-compare --benchmark-compare-fail=median:10%` fails by it. Add
`-p targets.plugin` where jettison is not installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from toolchain.cli import cli

SHIPPED = Path(__file__).parents[1] / "toolchain" / "shipped" / "triangles_squares.onnx"


@pytest.mark.parametrize("kept", [100, 50], ids=["dense", "half"])
@pytest.mark.parametrize("runtime", ["ort", "litert"])
def test_latency(on_target: Any, kept: int, runtime: str, tmp_path: Path) -> None:
    model = tmp_path / f"kept{kept}.onnx"
    words = ["prune", str(SHIPPED), "--criterion", "magnitude", "--budget", f"units<={kept}%", "-o", str(model)]
    cli.main(args=words, standalone_mode=False, obj={"arguments": words})
    if runtime != "ort":
        from toolchain.emit.tflite import to_tflite
        from toolchain.model import load

        lite = model.with_suffix(".tflite")
        to_tflite(load(model)).write(lite)
        model = lite
    on_target(model, runtime)

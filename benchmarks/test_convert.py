"""Float32 TFLite from ONNX, a cold process each: time, peak memory and file size, beside converters that are set up.

    [JETTISON_ONNX2TF=PYTHON] [JETTISON_LITERT_TORCH=PYTHON] pytest benchmarks/test_convert.py

PYTHON is that of an environment with onnx2tf==1.29.24, or with litert-torch==0.10.0, which takes no ONNX: it is given
torch.export's program of the same network. Ours runs five times and a rival once, before it: it takes seconds to
minutes for what takes us a tenth of a second.
Speed is reported, not asserted; asserted is that both files answer as onnxruntime does.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.cold import ROOT, Cold, cold
from benchmarks.networks import files
from toolchain.emit import check
from toolchain.model import load

ROUNDS = 5
RIVALS = {"onnx2tf": os.environ.get("JETTISON_ONNX2TF"), "litert_torch": os.environ.get("JETTISON_LITERT_TORCH")}
COMPARED = ("seconds", "peak_rss_bytes", "file_bytes", "error", "moves")


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["MobileNetV2", "ResNet-18", "DenseNet-121"])
def test_convert(benchmark: Any, name: str, tmp_path: Path) -> None:
    benchmark.group = "ONNX to TFLite"
    source, made = files()[name], tmp_path / "ours.tflite"
    runs: list[Cold] = []
    ours = lambda: runs.append(cold(("-m", "benchmarks.convert", source, made)))
    ours()
    runs.clear()
    theirs = {tool: rival(tool, python, source, tmp_path) for tool, python in RIVALS.items() if python}
    benchmark.pedantic(ours, rounds=ROUNDS)
    model = load(source)
    x = np.random.default_rng(0).standard_normal((2, 3, 224, 224)).astype(np.float32)
    found = check(model, made, x)
    assert found.passed
    told = [json.loads(r.stdout) for r in runs]
    facts = {
        "file_bytes": found.bytes,
        "error": found.max_rel,
        "seconds": statistics.median(t["seconds"] for t in told),
        "process_s": statistics.median(r.seconds for r in runs),
        "peak_rss_bytes": statistics.median(r.peak_rss_bytes for r in runs),
    }
    facts["peak_rss_per_file"] = facts["peak_rss_bytes"] / found.bytes
    for tool, row in theirs.items():
        assert row["status"] == "converted", row
        facts |= {f"{tool}_{k}": row[k] for k in COMPARED}
        facts |= {f"{tool}_{k}_ratio": row[k] / facts[k] for k in ("seconds", "peak_rss_bytes")}
    benchmark.extra_info.update(facts)
    print("\n" + name + " " + ", ".join(f"{k} {v:.3g}" for k, v in facts.items()))


def rival(tool: str, python: str, source: Path, folder: Path) -> dict[str, Any]:
    """What benchmarks.rivals.TOOL_case says of the network, in the rival's environment."""
    given = folder / source.name
    if tool == "litert_torch":
        given = program(source, folder)
    elif not given.exists():
        given.symlink_to(source)
    x = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    np.savez(given.with_suffix(".npz"), p0_x0=x)
    command = [python, "-m", f"benchmarks.rivals.{tool}_case", str(given)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def program(source: Path, folder: Path) -> Path:
    """torch.export's program of the network."""
    torch = pytest.importorskip("torch", reason="litert-torch starts from a torch program")
    from toolchain.retrain import to_torch

    made = torch.export.export(to_torch(load(source)).eval(), (torch.zeros(1, 3, 224, 224),))
    path = folder / f"{source.stem}.pt2"
    torch.export.save(made, path)
    return path

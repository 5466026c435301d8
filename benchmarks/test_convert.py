"""Float32 TFLite from ONNX, a cold process each: time, peak memory and file size, beside onnx2tf where it is set up.

    pytest benchmarks/test_convert.py [JETTISON_ONNX2TF=its python, in an environment with onnx2tf==1.29.24]

Ours runs five times and the rival once, in the middle: it takes minutes for what takes us a tenth of a second.
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
RIVAL = os.environ.get("JETTISON_ONNX2TF")


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["MobileNetV2", "ResNet-18", "DenseNet-121"])
def test_convert(benchmark: Any, name: str, tmp_path: Path) -> None:
    benchmark.group = "ONNX to TFLite"
    source, made = files()[name], tmp_path / "ours.tflite"
    runs: list[Cold] = []
    ours = lambda: runs.append(cold(("-m", "benchmarks.convert", source, made)))
    ours()
    runs.clear()
    theirs = rival(source, tmp_path) if RIVAL else {}
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
    if theirs:
        assert theirs["status"] == "converted", theirs
        facts |= {f"onnx2tf_{k}": theirs.get(k) for k in ("seconds", "peak_rss_bytes", "file_bytes", "error", "moves")}
        facts |= {f"ratio_{k}": theirs[k] / facts[k] for k in ("seconds", "peak_rss_bytes")}
    benchmark.extra_info.update(facts)
    print("\n" + name + " " + ", ".join(f"{k} {v:.3g}" for k, v in facts.items()))


def rival(source: Path, folder: Path) -> dict[str, Any]:
    """What benchmarks.rivals.onnx2tf_case says of the network, in the rival's environment."""
    link = folder / source.name
    link.symlink_to(source)
    x = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    np.savez(link.with_suffix(".npz"), p0_x0=x)
    command = [str(RIVAL), "-m", "benchmarks.rivals.onnx2tf_case", str(link)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])

"""Half of ResNet-56's channels removed and written as ONNX, from a cold process: ours against Torch-Pruning.

Ours reads the ONNX file, the rival builds its torch module and reads the same weights; both rank by the L1 norm, halve
the same 30 groups and write ONNX. The rival exports with whichever of torch's two exporters is faster here. Runs
alternate, rival then ours; a first run of each warms the page cache. Speed is reported, not asserted; asserted is only
that both remove the same amount and that both files run.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is the other side of this comparison")
pytest.importorskip("torch_pruning", reason="torch-pruning is the other side of this comparison")

import onnxruntime as ort

from benchmarks import resnet56
from benchmarks.cold import Cold, cold

ROUNDS = 7
EXPORTERS = ("torchscript", "dynamo")


def widths(path: Path) -> list[int]:
    """Output channels of the convolutions, in order of the graph; raises unless the file runs on two images."""
    import onnx

    runner = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (y,) = runner.run(None, {"image": np.ones((2, *resnet56.IMAGE), np.float32)})
    assert y.shape == (2, resnet56.CLASSES)
    graph = onnx.load(path).graph
    sizes = {t.name: list(t.dims) for t in graph.initializer}
    return [sizes[n.input[1]][0] for n in graph.node if n.op_type == "Conv"]


@pytest.mark.timeout(600)
def test_prune_cold(benchmark: Any, tmp_path: Path) -> None:
    benchmark.group = "cold prune of ResNet-56"
    dense, weights = resnet56.onnx_file(), resnet56.weights_file()
    ours_file = tmp_path / "ours.onnx"
    command = ("-m", "toolchain.cli", "prune", dense, "--criterion", "magnitude", "--budget", "units<=50%")

    def ours() -> Cold:
        return cold((*command, "-o", ours_file, "--force"))

    def rival(exporter: str) -> Cold:
        script = Path(__file__).parent / "rivals" / "torch_pruning_resnet56.py"
        return cold((script, weights, tmp_path / f"{exporter}.onnx", "--exporter", exporter))

    first = {e: rival(e).seconds for e in EXPORTERS}
    best = min(first, key=first.__getitem__)
    ours()
    assert sorted(widths(ours_file)) == sorted(widths(tmp_path / f"{best}.onnx"))

    mine: list[Cold] = []
    theirs: list[Cold] = []
    benchmark.pedantic(lambda: mine.append(ours()), setup=lambda: theirs.append(rival(best)), rounds=ROUNDS)
    facts: dict[str, Any] = {"rounds": ROUNDS, "rival_exporter": best, "rival_first_s_by_exporter": first}
    for name, quantity in (("wall_s", "seconds"), ("cpu_s", "cpu_seconds"), ("peak_rss_bytes", "peak_rss_bytes")):
        a, b = ([getattr(c, quantity) for c in runs] for runs in (mine, theirs))
        ratios = [y / x for x, y in zip(a, b, strict=True)]
        facts |= {
            f"ours_{name}": statistics.median(a),
            f"rival_{name}": statistics.median(b),
            f"ratio_{name}": statistics.median(ratios),
            f"ratio_{name}_range": [min(ratios), max(ratios)],
        }
    benchmark.extra_info.update(facts)
    print(
        f"\nrival ({best}) {facts['rival_wall_s']:.2f} s, {facts['rival_peak_rss_bytes'] / 1e6:.0f} MB; "
        f"ours {facts['ours_wall_s']:.2f} s, {facts['ours_peak_rss_bytes'] / 1e6:.0f} MB; "
        f"ratios {facts['ratio_wall_s']:.2f} in wall time, {facts['ratio_cpu_s']:.2f} in processor time, "
        f"{facts['ratio_peak_rss_bytes']:.2f} in memory"
    )

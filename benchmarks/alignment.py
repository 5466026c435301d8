"""What aligned widths are worth: latency of the same budget with and without them, and of whole sweeps.

    python -m benchmarks.alignment [--only pairs|half|sweep] [--out FILE] [--runs N]

pairs  half of the multiply-accumulates, aligned and not: time against each other, and speed-up over saving
half   half of the channels of MobileNetV2
sweep  six networks from 90 to 10 % of the multiply-accumulates: nothing may be slower than its original

Ranked by magnitude; seeded weights, for only time and counts are looked at. Original and results are measured turn by
turn in child processes on one thread; ratios are medians over rounds of the median inference.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.networks import files
from targets.measure import measure_side_by_side, ratio
from toolchain.compress.criteria import Evidence, rank
from toolchain.compress.groups import Channels, analyse
from toolchain.compress.plan import make_plan
from toolchain.compress.ranks import Ranks
from toolchain.compress.surgery import prune
from toolchain.emit import to_tflite
from toolchain.model import Model, load, save

LEAST_MACS = 300e6  # below it fixed costs hide what widths do
SHARES = tuple(range(90, 0, -10))  # per cent that stay


@dataclass(frozen=True)
class Network:
    """A network, analysed and ranked once, and a folder for what is cut from it."""

    name: str
    model: Model
    channels: Channels
    ranks: Ranks
    folder: Path

    @staticmethod
    def read(name: str, file: Path, folder: Path) -> Network:
        """Load, analyse, rank."""
        model = load(file)
        channels = analyse(model)
        ranks = rank("magnitude", Evidence(model, channels, {}, np.zeros(0, np.int64)))
        return Network(name, model, channels, ranks, folder)

    def cut(self, budget: str, align: str) -> tuple[Path, float]:
        """An ONNX file within the budget, and its multiply-accumulates."""
        plan = make_plan(self.model, self.channels, self.ranks.scores, self.ranks.dead, budget, align)
        path = self.folder / f"{self.name}-{budget}-{align}.onnx".replace("<=", "")
        save(prune(self.model, self.channels, plan.labels(self.channels)), path, force=True)
        return path, float(plan.costs["macs"][1])

    def original(self) -> tuple[Path, float]:
        """The whole network as our own file, so that both sides went through the same hands."""
        return self.cut("units<=100%", "off")

    def lite(self, path: Path) -> Path:
        """The same as TFLite."""
        emitted = path.with_suffix(".tflite")
        emitted.write_bytes(to_tflite(load(path)).data)
        return emitted


def times_faster(paths: Sequence[tuple[Path, str]], runs: int) -> list[tuple[float, float, float, float]]:
    """(speed-up over the first, least, most, ms) of each."""
    measured = measure_side_by_side(paths, runs=runs, warmup=3, timeout_s=300)
    found = []
    for m in measured:
        middle, low, high = ratio(measured[0], m)
        found.append((1 / middle, 1 / high, 1 / low, m.ns.p50 / 1e6))
    return found


def pairs(networks: Sequence[Network], runs: int) -> Iterator[dict[str, Any]]:
    """Aligned against not, at half of the multiply-accumulates."""
    for net in networks:
        whole, macs = net.original()
        if macs < LEAST_MACS:
            continue
        ways = {align: net.cut("macs<=50%", align) for align in ("off", "auto")}
        paths = [(whole, "ort"), *((path, "ort") for path, _ in ways.values())]
        dense, free, kept = times_faster(paths, runs)
        yield {
            "network": net.name, "MMAC": round(macs / 1e6), "original ms": round(dense[3], 2),
            "unaligned ms": round(free[3], 2), "aligned ms": round(kept[3], 2),
            "aligned is faster ×": round(kept[0] / free[0], 2),
            "MACs aligned/unaligned": round(ways["auto"][1] / ways["off"][1], 4),
            "speed-up ×": round(kept[0], 2), "MACs ÷": round(macs / ways["auto"][1], 2),
            "speed-up / saving": round(kept[0] * ways["auto"][1] / macs, 2),
            "unaligned speed-up / saving": round(free[0] * ways["off"][1] / macs, 2),
        }  # fmt: skip


def half(networks: Sequence[Network], runs: int) -> Iterator[dict[str, Any]]:
    """Half of the channels of every group."""
    for net in networks:
        if net.name == "MobileNetV2":
            (whole, macs), (cut, left) = net.original(), net.cut("units<=50%", "auto")
            dense, pruned = times_faster([(whole, "ort"), (cut, "ort")], runs)
            yield {
                "network": net.name, "original ms": round(dense[3], 2), "half ms": round(pruned[3], 2),
                "speed-up ×": round(pruned[0], 2), "range": f"{pruned[1]:.2f}-{pruned[2]:.2f}",
                "MACs ÷": round(macs / left, 2),
            }  # fmt: skip


def sweep(networks: Sequence[Network], runs: int) -> Iterator[dict[str, Any]]:
    """Speed-up over the original in each runtime at every share."""
    for net in networks:
        whole, _ = net.original()
        cuts = [whole, *(net.cut(f"macs<={share}%", "auto")[0] for share in SHARES)]
        onnx = times_faster([(path, "ort") for path in cuts], runs)
        lite = times_faster([(net.lite(path), "litert") for path in cuts], runs)
        for share, o, l in zip(SHARES, onnx[1:], lite[1:], strict=True):
            yield {
                "network": net.name, "MACs kept %": share, "onnxruntime ×": round(o[0], 2),
                "range": f"{o[1]:.2f}-{o[2]:.2f}", "LiteRT ×": round(l[0], 2), "range of it": f"{l[1]:.2f}-{l[2]:.2f}",
            }  # fmt: skip


PARTS = {"pairs": pairs, "half": half, "sweep": sweep}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(PARTS), action="append")
    parser.add_argument("--networks", nargs="*", help="Some of the networks.")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--runs", type=int, default=60)
    asked = parser.parse_args()
    results: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        chosen = {n: f for n, f in files().items() if not asked.networks or n in asked.networks}
        networks = [Network.read(name, file, Path(folder)) for name, file in chosen.items()]
        for part in asked.only or PARTS:
            print(f"\n{part}\n")
            for row in PARTS[part](networks, asked.runs):
                if part not in results:
                    print("| " + " | ".join(row) + " |\n|" + "---|" * len(row))
                results.setdefault(part, []).append(row)
                print("| " + " | ".join(map(str, row.values())) + " |", flush=True)
    if asked.out is not None:
        asked.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

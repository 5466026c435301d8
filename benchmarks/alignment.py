"""What alignment is worth: latency of aligned and unaligned cuts of the same network, side by side on this machine.

    python -m benchmarks.alignment [--part halves|widths|sweep] [--rules auto,16,32] [--nets NAME,…] [--runs N]
                                   [--budget macs<=50%] [--json FILE]

halves  networks of 300 MMACs and more at half of their MACs (--budget), by magnitude: each rule against no alignment.
        Wanted: 1.2 times as fast at no more than 3 % more MACs, and speed-up ÷ MAC reduction of 0.9. AlexNet-5 spends
        most of its time on 220 MB of dense weights, which a budget of MACs leaves: try macs<=50%,params<=50%
widths  MobileNetV2 with half the channels of every layer. Wanted: 2.5 times as fast
sweep   six networks at 10 to 90 % of their MACs, in onnxruntime and LiteRT. Wanted: none slower than its original

One thread; every row is measured in turns with its original, in child processes (targets.measure); medians.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.zoo import ZOO, file_of
from targets.measure import measure_side_by_side
from toolchain import emit
from toolchain.compress.criteria import Evidence, rank
from toolchain.compress.groups import analyse
from toolchain.compress.plan import Plan, make_plan
from toolchain.compress.surgery import prune
from toolchain.errors import OutOfReach
from toolchain.model import Model, load, save
from toolchain.tables import markdown

LARGE = ("AlexNet-5", "ResNet-18", "MobileNetV2", "VGG-11")  # of 300 MMACs and more
SHARES = (90, 80, 70, 60, 50, 40, 30, 20, 10)
Row = dict[str, Any]


class Cutter:
    """Cuts one network of the zoo by magnitude, ranked once."""

    def __init__(self, name: str) -> None:
        self.file = file_of(name)
        self.model = load(self.file)
        self.channels = analyse(self.model)
        nothing = np.zeros(0, np.int64)
        self.ranks = rank("magnitude", Evidence(self.model, self.channels, {}, nothing))

    def cut(self, budget: str, align: str) -> tuple[Plan, Model]:
        """The plan and the network."""
        plan = make_plan(self.model, self.channels, self.ranks.scores, self.ranks.dead, budget, align)
        return plan, prune(self.model, self.channels, plan.labels(self.channels))


def p50s(files: Sequence[Path], runtime: str, runs: int) -> list[float]:
    """Median milliseconds of each file, in turns."""
    found = measure_side_by_side([(f, runtime) for f in files], rounds=5, runs=runs, warmup=3, timeout_s=600)
    return [m.ns.p50 / 1e6 for m in found]


def halves(names: Sequence[str], rules: Sequence[str], runs: int, budget: str) -> Iterator[Row]:
    """Half of the MACs, aligned by each rule and not."""
    for name in (n for n in names if n in LARGE):
        cutter = Cutter(name)
        with tempfile.TemporaryDirectory() as folder:
            files, macs = [cutter.file], []
            for align in ("off", *rules):
                plan, model = cutter.cut(budget, align)
                macs.append(plan.costs["macs"])
                files.append(Path(folder) / f"{align}.onnx")
                save(model, files[-1])
            dense, off, *aligned = p50s(files, "ort", runs)
        for align, ms, (before, after) in zip(rules, aligned, macs[1:], strict=True):
            yield {
                "network": name, "align": align, "dense ms": dense, "unaligned ms": off, "aligned ms": ms,
                "unaligned / aligned": off / ms, "MACs / unaligned": after / macs[0][1],
                "MACs kept %": 100 * after / before,
                "speed-up": dense / ms, "speed-up ÷ MAC reduction": (dense / ms) / (before / after),
                "unaligned ÷ MAC reduction": (dense / off) / (macs[0][0] / macs[0][1]),
            }  # fmt: skip


def widths(names: Sequence[str], rules: Sequence[str], runs: int, budget: str) -> Iterator[Row]:
    """Half the channels of every layer of MobileNetV2."""
    cutter = Cutter("MobileNetV2")
    with tempfile.TemporaryDirectory() as folder:
        files, macs = [cutter.file], []
        for align in ("off", *rules):
            plan, model = cutter.cut("units<=50%", align)
            macs.append(plan.costs["macs"])
            files.append(Path(folder) / f"{align}.onnx")
            save(model, files[-1])
        dense, *ms = p50s(files, "ort", runs)
    for align, t, (before, after) in zip(("off", *rules), ms, macs, strict=True):
        yield {"align": align, "dense ms": dense, "ms": t, "MACs kept %": 100 * after / before, "speed-up": dense / t}


def sweep(names: Sequence[str], rules: Sequence[str], runs: int, budget: str) -> Iterator[Row]:
    """Every network at every share of its MACs, in both runtimes, each beside its original."""
    for name in names:
        cutter = Cutter(name)
        with tempfile.TemporaryDirectory() as folder:
            shares, files = [100], {"ort": [cutter.file], "litert": [Path(folder) / "100.tflite"]}
            files["litert"][0].write_bytes(emit.to_tflite(cutter.model).data)
            kept = {100: 100.0}
            for share in SHARES:
                try:
                    plan, model = cutter.cut(f"macs<={share}%", rules[0])
                except OutOfReach as error:
                    print(f"{name} {share} %: {error}", flush=True)
                    continue
                shares.append(share)
                kept[share] = 100 * plan.costs["macs"][1] / plan.costs["macs"][0]
                for runtime, suffix in (("ort", "onnx"), ("litert", "tflite")):
                    files[runtime].append(Path(folder) / f"{share}.{suffix}")
                save(model, files["ort"][-1])
                files["litert"][-1].write_bytes(emit.to_tflite(model).data)
            for runtime, every in files.items():
                dense, *cut = p50s(every, runtime, runs)
                for share, ms in zip(shares[1:], cut, strict=True):
                    yield {
                        "network": name, "runtime": runtime, "macs<= %": share, "MACs kept %": kept[share],
                        "dense ms": dense, "ms": ms, "of the original": ms / dense, "slower": ms > dense,
                    }  # fmt: skip


PARTS: dict[str, Callable[[Sequence[str], Sequence[str], int, str], Iterator[Row]]] = {
    "halves": halves, "widths": widths, "sweep": sweep,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--rules", default="auto")
    parser.add_argument("--nets", default=",".join(ZOO))
    parser.add_argument("--runs", type=int, default=25)
    parser.add_argument("--budget", default="macs<=50%")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    found: dict[str, list[Row]] = {}
    for part in asked.part or PARTS:
        found[part] = []
        for r in PARTS[part](asked.nets.split(","), asked.rules.split(","), asked.runs, asked.budget):
            found[part].append(r)
            print(part, {k: round(v, 3) if isinstance(v, float) else v for k, v in r.items()}, flush=True)
        print(
            markdown([{k: float(f"{v:.3g}") if isinstance(v, float) else v for k, v in r.items()} for r in found[part]])
        )
    if asked.json is not None:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Table 3 of Lundstrom et al. 2022: parameters cut at 50…95 % masking of AlexNet-5, as printed and by real removal.

The paper takes the widths f = 9216(1−p), a = b = 4096(1−p) as real numbers:

    cut(p) = round((1 − (1−p)²) · 54,525,952 + 28,672 · p)

Beside it stands what is gone when whole units of flatten, dense1 and dense2 are removed from the graph, counted in the
pruned model; convolutions stay whole, as in the paper. Then one cold `jettison prune` of the 233 MB file at 95 %.

    python -m benchmarks.reproduce.table3 [--json FILE] [--runs 3]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cold import cold
from benchmarks.nets import MACS, PARAMETERS, alexnet5_file
from toolchain.compress.criteria import Evidence, rank
from toolchain.compress.groups import analyse
from toolchain.compress.plan import make_plan
from toolchain.compress.surgery import prune
from toolchain.model import load
from toolchain.profile import profile
from toolchain.tables import show

PRINTED = {  # percentage masked -> parameters cut, as the paper prints them
    50: 40_908_800,
    55: 43_500_216,
    60: 45_819_003,
    65: 47_865_160,
    70: 49_638_687,
    75: 51_139_584,
    80: 52_367_852,
    85: 53_323_489,
    90: 54_006_497,
    95: 54_416_876,
}
DENSE, WHOLE = ("flatten", "dense1", "dense2"), ("conv*",)
ROOM = 16 << 10  # bytes that a file may spend on nodes, names and shapes
INDEX = 8  # bytes of one place that the Gather behind the flatten picks


def formula(masked: int) -> int:
    """Parameters cut at this percentage, by the paper's count; in integers, so that nothing rounds but the end."""
    kept = 100 - masked
    ten_thousandths = (10_000 - kept**2) * 54_525_952 + masked * 100 * 28_672
    return (ten_thousandths + 5_000) // 10_000


def by_removal() -> list[dict[str, Any]]:
    """One row for each percentage: whole units removed by magnitude, everything counted in the pruned model."""
    model = load(alexnet5_file())
    channels = analyse(model)
    ranks = rank("magnitude", Evidence(model, channels, {}, np.zeros(0, np.int64)))
    dense = profile(model)
    assert (dense.params, dense.macs) == (PARAMETERS, MACS)
    rows = []
    for masked, printed in PRINTED.items():
        plan = make_plan(model, channels, ranks.scores, ranks.dead, f"units<={100 - masked}%", "off", WHOLE)
        untouched = [n for n, (before, after) in plan.widths.items() if before == after]
        assert untouched == [g.name for g in channels.groups if g.name not in DENSE], untouched
        after = profile(prune(model, channels, plan.labels(channels)))
        assert (after.params, after.macs) == (plan.costs["params"][1], plan.costs["macs"][1])
        rows.append(
            {
                "masked %": masked,
                "printed": printed,
                "formula": formula(masked),
                "whole units": dense.params - after.params,
                "kept flatten/dense1/dense2": "/".join(str(plan.widths[n][1]) for n in DENSE),
                "params left": after.params,
                "params cut %": round(100 - 100 * after.params / dense.params, 1),
                "MACs left": after.macs,
                "MACs cut %": round(100 - 100 * after.macs / dense.macs, 1),
            }
        )
    return rows


def cold_prune(runs: int, masked: int = 95) -> dict[str, Any]:
    """Load, plan, prune and save in a fresh process, and how large the file is that it writes."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "pruned.onnx"
        budget = ("--criterion", "magnitude", "--budget", f"units<={100 - masked}%", "--align", "off")
        command = ("-m", "toolchain.cli", "prune", alexnet5_file(), *budget, "--keep", *WHOLE, "-o", out, "--force")
        done = [cold(command) for _ in range(runs)]
        size, params = out.stat().st_size, profile(load(out)).params
    places = round(9216 * (100 - masked) / 100)
    limit = 4 * params + ROOM + INDEX * places
    return {
        "masked %": masked,
        "wall s": round(statistics.median(c.seconds for c in done), 2),
        "processor s": round(statistics.median(c.cpu_seconds for c in done), 2),
        "peak RSS MB": round(max(c.peak_rss_bytes for c in done) / 1e6),
        "file bytes": size,
        "4 × params + 16 KiB + index": limit,
        "fits": size <= limit,
        "runs": runs,
    }


def main() -> None:
    """Print Markdown, and write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write everything to this file too")
    parser.add_argument("--runs", type=int, default=3, help="cold runs; the median counts")
    asked = parser.parse_args()
    rows = by_removal()
    wrong = [r["masked %"] for r in rows if r["formula"] != r["printed"]]
    assert not wrong, f"the formula misses the printed numbers at {wrong} %"
    show(rows, "md")
    print(f"\nThe formula gives all {len(rows)} printed numbers.\n")
    row = cold_prune(asked.runs)
    show([row], "md")
    if asked.json:
        asked.json.write_text(json.dumps({"table3": rows, "cold_prune": row}, indent=1) + "\n")


if __name__ == "__main__":
    main()

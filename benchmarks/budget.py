"""How long a budget takes to be solved: widths of every group that meet it, without running the network once.

    python -m benchmarks.budget [--json FILE]

The networks of `benchmarks.networks`, ranked by magnitude beforehand; the median of five solves.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.networks import files
from toolchain.compress.criteria import Evidence, rank
from toolchain.compress.groups import analyse
from toolchain.compress.plan import make_plan
from toolchain.model import load

BUDGETS = ("macs<=50%", "ram<=50%", "params<=50%,macs<=40%,flash<=60%", "params<=50%,macs<=40%,flash<=60%,ram<=70%")
REPEATS = 5


def rows(name: str, file: Path) -> list[dict[str, Any]]:
    """One network under each budget."""
    model = load(file)
    channels = analyse(model)
    ranks = rank("magnitude", Evidence(model, channels, {}, np.zeros(0, np.int64)))
    found = []
    for budget in BUDGETS:
        seconds = []
        for _ in range(REPEATS):
            begun = time.perf_counter()
            plan = make_plan(model, channels, ranks.scores, ranks.dead, budget)
            seconds.append(time.perf_counter() - begun)
        kept = {f"{q} kept %": round(100 * after / before, 2) for q, (before, after) in plan.costs.items()}
        facts = {"network": name, "groups": len(channels.groups), "budget": budget, "s": round(median(seconds), 3)}
        found.append(facts | {"slowest s": round(max(seconds), 3)} | kept)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    found = [row for name, file in files().items() for row in rows(name, file)]
    print("| " + " | ".join(found[0]) + " |\n|" + "---|" * len(found[0]))
    for r in found:
        print("| " + " | ".join(map(str, r.values())) + " |")
    if asked.json is not None:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

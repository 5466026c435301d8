"""How long a budget takes to solve on a DenseNet-121: which of 120 groups give how much, without any inference.

    python -m benchmarks.budget [--repeats N] [--json FILE]

Scores are magnitudes. Once: parameters and groups are counted (`prepare`). For each budget: widths are searched and
units chosen (`solve`), the median of N runs, each from a fresh count; both together have to take under 2 s.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.zoo import file_of
from toolchain.compress.budget import parse_budget
from toolchain.compress.criteria import Evidence, rank
from toolchain.compress.groups import analyse
from toolchain.compress.plan import plan_within, removable
from toolchain.model import load
from toolchain.tables import markdown

BUDGETS = (
    "params<=30%",
    "macs<=50%",
    "flash<=50%",
    "ram<=70%",
    "params<=30%,macs<=40%,flash<=50%",
    "params<=40%,macs<=40%,ram<=80%",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    model = load(file_of("DenseNet-121"))
    channels = analyse(model)
    ranks = rank("magnitude", Evidence(model, channels, {}, np.zeros(0, np.int64)))
    rows: list[dict[str, Any]] = []
    for budget in BUDGETS:
        prepare, solve, used = [], [], {}
        for _ in range(asked.repeats):
            begun = time.perf_counter()
            of = removable(model, channels, ranks.scores, ranks.dead)
            counted = time.perf_counter()
            used = plan_within(of, parse_budget(budget)).used
            prepare.append(counted - begun)
            solve.append(time.perf_counter() - counted)
        rows.append(
            {
                "budget": budget,
                "groups": len(channels.groups),
                "prepare s": round(median(prepare), 3),
                "solve s": round(median(solve), 3),
                "of limits %": ", ".join(f"{100 * u:.1f}" for u in used.values()),
            }
        )
        print(f"{budget}: {rows[-1]['prepare s']} + {rows[-1]['solve s']} s", flush=True)
    print(markdown(rows))
    if asked.json is not None:
        asked.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

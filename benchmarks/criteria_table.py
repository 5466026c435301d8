"""The rows of benchmarks.criteria as tables: accuracy on test images, mean ± standard error over seeds.

    python -m benchmarks.criteria_table RUNS/rows.jsonl [--split validation] [--seeds 1 2 3 4] > table.md

Behind them the verdict: how far `auto` is from the best row of each cell, in points and in that row's standard errors.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from toolchain.auto import CANDIDATES, Distance

Cell = tuple[str, str, int, str]  # net, stage, percent left, method
LEAST_SEEDS = 2  # that a method shares with ours to be compared with it, where ours has so many
STAGES = {
    "pruned": "no recovery",
    "recovered": "recovery: least squares, no labels",
    "retrained": "recovery, then the same short retraining for all",
}


def cells(rows: Iterable[Mapping[str, Any]], split: str) -> dict[Cell, dict[int, float]]:
    """Accuracy in percent by seed, of each cell that could be reached."""
    found: dict[Cell, dict[int, float]] = {}
    for row in rows:
        if row[split] is not None:
            cell = (row["net"], row["stage"], row["left"], row["method"])
            found.setdefault(cell, {})[row["seed"]] = 100 * row[split]
    return found


def with_auto(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows and those of `auto`: of its candidates the one that `toolchain.auto` takes, by answers alone.

    For retraining it is the one whose recovered network was nearest. Seeds that lack rows of a candidate have none.
    """
    tried: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        if row["method"] in CANDIDATES and row["test"] is not None:
            tried.setdefault((row["net"], row["seed"], row["left"], row["stage"]), []).append(row)
    known: dict[tuple[Any, ...], set[str]] = {}
    for (net, _, left, stage), mine in tried.items():
        known.setdefault((net, left, stage), set()).update(r["method"] for r in mine)
    found = []
    for (net, seed, left, stage), mine in tried.items():
        judged = tried.get((net, seed, left, "recovered" if stage == "retrained" else stage), [])
        judged = [r for r in judged if r["method"] in known[net, left, stage]]
        if known[net, left, stage] <= {r["method"] for r in judged} & {r["method"] for r in mine}:
            best = min(judged, key=lambda r: Distance(r["changed"], r["distance"]))["method"]
            found.append(next(r for r in mine if r["method"] == best) | {"method": "auto"})
    return [*found, *rows]


def mean(values: Mapping[int, float]) -> tuple[float, float]:
    """Mean and standard error; 0 for a single seed."""
    a = np.array(list(values.values()))
    return float(a.mean()), float(a.std(ddof=1) / len(a) ** 0.5) if len(a) > 1 else 0.0


def table(found: Mapping[Cell, Mapping[int, float]], net: str, stage: str, macs: Mapping[Cell, float]) -> str:
    """One network and stage: a row for each method, a column for each share of multiply-accumulates left."""
    methods = list(dict.fromkeys(c[3] for c in found if c[:2] == (net, stage)))
    columns = sorted({c[2] for c in found if c[:2] == (net, stage)}, reverse=True)
    best = {p: max(mean(v)[0] for c, v in found.items() if c[:3] == (net, stage, p)) for p in columns}
    lines = [
        "| criterion | " + " | ".join(f"{100 - p} % of MACs removed" for p in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for method in methods:
        texts = []
        for p in columns:
            values = found.get((net, stage, p, method))
            if values is None:
                texts.append("–")
                continue
            m, se = mean(values)
            text = f"{m:.1f} ± {se:.1f}"
            text = f"**{text}**" if m >= best[p] - 1e-9 else text
            share = 100 * macs[net, stage, p, method]
            texts.append(text + (f" ({share:.0f} % left)" if share < p - 5 else "") + f" [{len(values)}]")
        lines.append(f"| {method} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def verdict(found: Mapping[Cell, Mapping[int, float]], ours: str) -> str:
    """Each cell where `ours` has rows: its distance to the best other method on the seeds of both.

    A single seed has no error to be within: such cells are told and not counted.
    """
    lines = [
        "| network | stage | removed | seeds | best | its mean ± error | auto | behind, points | within one error |",
        "|---" * 9 + "|",
    ]
    held, total = 0, 0
    for net, stage, p, _ in (c for c in found if c[3] == ours):
        mine = found[net, stage, p, ours]
        pairs = {}  # method -> its mean and error, and ours, on the seeds that both have
        for c, values in found.items():
            seeds = set(mine) & set(values)
            if c[:3] == (net, stage, p) and c[3] != ours and len(seeds) >= min(len(mine), LEAST_SEEDS):
                theirs, own = ({s: v[s] for s in seeds} for v in (values, mine))
                pairs[c[3]] = (*mean(theirs), mean(own)[0], len(seeds))
        if not pairs:
            continue
        name = max(pairs, key=lambda m: pairs[m][0] - pairs[m][2])
        m, se, own, seeds = pairs[name]
        is_within = own >= m - se - 0.05
        if seeds > 1:
            held, total = held + is_within, total + 1
        mark = "one seed" if seeds == 1 else "yes" if is_within else "**no**"
        best = f"{name} | {m:.1f} ± {se:.1f}" if seeds > 1 else f"{name} | {m:.1f}"
        lines.append(f"| {net} | {stage} | {100 - p} % | {seeds} | {best} | {own:.1f} | {m - own:.1f} | {mark} |")
    return f"{held} of {total} cells within one standard error of the best row (or 0.05 points).\n\n" + "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--split", choices=["validation", "test"], default="test")
    parser.add_argument("--ours", default="auto")
    parser.add_argument("--seeds", nargs="+", type=int, help="these alone, such as those that chose nothing")
    asked = parser.parse_args()
    rows = [json.loads(line) for line in asked.rows.read_text().splitlines()]
    rows = with_auto([r for r in rows if asked.seeds is None or r["seed"] in asked.seeds])
    found = cells(rows, asked.split)
    macs: dict[Cell, list[float]] = {}
    for row in rows:
        if row[asked.split] is not None:
            macs.setdefault((row["net"], row["stage"], row["left"], row["method"]), []).append(row["macs"])
    shares = {c: float(np.mean(m)) for c, m in macs.items()}
    for net in dict.fromkeys(c[0] for c in found):
        for stage, title in STAGES.items():
            if any(c[:2] == (net, stage) for c in found):
                print(f"\n**{net}, {title}**\n\n{table(found, net, stage, shares)}")
    print(f"\n**{asked.ours} against the best row**\n\n{verdict(found, asked.ours)}")


if __name__ == "__main__":
    main()

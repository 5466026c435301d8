"""Half of the units of every dense layer removed, and won back without labels: MNIST and the rover network.

    python -m benchmarks.criteria_dense --nets-folder RUNS/nets --msl5 RUNS/msl5 [--criteria ig-abs l2]

Flatten and dense layers alone are cut, as in Lundstrom et al. 2022, to half of their units, places behind the flatten
among them. Test accuracy in percent: before, cut, recovered by least squares on calibration images; and points lost.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.criteria import Case, evaluate, nets, opened, ranks_of
from benchmarks.criteria_nets import SEEDS
from toolchain.compress.plan import make_plan
from toolchain.compress.recover import recover
from toolchain.compress.surgery import prune


def row(case: Case, criterion: str) -> list[str]:
    """One network and criterion."""
    kinds = {g.name: g.kind for g in case.channels.groups}
    ranks = ranks_of(case, criterion)
    scores = {n: s for n, s in ranks.scores.items() if kinds[n] != "channel"}
    plan = make_plan(case.model, case.channels, scores, ranks.dead, "units<=50%")
    removed = plan.labels(case.channels)
    cut = prune(case.model, case.channels, removed)
    recovered, _ = recover(case.model, cut, case.channels, removed, case.calibration.inputs, seed=case.seed)
    found = [100 * evaluate(m, case.splits.test.samples()).share for m in (case.model, cut, recovered)]
    held = [100 * evaluate(m, case.splits.validation.samples()).share for m in (case.model, recovered)]
    widths = " ".join(f"{n} {b}→{a}" for n, (b, a) in plan.widths.items() if a < b)
    texts = [f"{x:.2f}" for x in (*found, found[0] - found[2], held[0] - held[1])]
    return [case.about.name, str(case.seed), criterion, widths, *texts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets-folder", type=Path, required=True)
    parser.add_argument("--msl5", type=Path, help="folder that reproduce.train_msl5 wrote")
    parser.add_argument("--out", type=Path, required=True, help="where ranks are kept, as by benchmarks.criteria")
    parser.add_argument("--criteria", nargs="+", default=["ig-abs", "reconstruction", "l2"])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    asked = parser.parse_args()
    print("| network | seed | criterion | widths | before | cut | recovered | lost, test | lost, validation |")
    print("|---" * 9 + "|")
    for name, about in nets(asked.msl5).items():
        if name not in ("mnist", "msl5"):
            continue
        for seed in asked.seeds if about.epochs else asked.seeds[:1]:
            case = opened(about, seed, asked.nets_folder if about.epochs else asked.msl5, asked.out)
            for criterion in asked.criteria:
                print("| " + " | ".join(row(case, criterion)) + " |", flush=True)


if __name__ == "__main__":
    main()

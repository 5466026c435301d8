"""Peak resident memory of a ranking against its --max-memory, one child process for each budget.

AlexNet-5 (58.3 M parameters) at 227×227, five classes and the loss, 16 nodes: conv1, whose attribution takes the most
memory by far, and dense1. `needed` is what one sample at a time takes: less than that no number of samples gives.

    python -m benchmarks.memory [--samples 32] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

CUTS = {"conv1": "relu1.out", "conv5": "relu5.out", "dense1": "relu6.out"}
MIB = 1 << 20


def child(cut: str, budget: int, samples: int) -> dict[str, object]:
    """Rank in this process and say what it took."""
    import numpy as np

    from benchmarks import nets
    from toolchain.compress.attribution import attribute
    from toolchain.model import load

    model = load(nets.alexnet5_file())
    generator = np.random.default_rng(0)
    x = generator.standard_normal((samples, 3, 227, 227)).astype(np.float32)
    labels = np.arange(samples) % 5
    begun = time.perf_counter()
    (found,) = attribute(
        model, [(CUTS[cut], 1)], {"image": x}, labels, target="classes", tolerance=np.inf, max_memory=budget
    )
    return {
        "cut": cut,
        "budget_bytes": budget,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "samples_per_run": found.per_run,
        "seconds": time.perf_counter() - begun,
        "note": found.note,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", nargs=2, metavar=("CUT", "BYTES"))
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(child(asked.child[0], int(asked.child[1]), asked.samples)))
        return
    rows = []
    for cut in CUTS:
        for budget in (1, 1536 * MIB, 2048 * MIB, 3072 * MIB, 4096 * MIB, 6144 * MIB):
            command = [sys.executable, "-m", "benchmarks.memory", "--child", cut, str(budget)]
            told = subprocess.run(
                [*command, "--samples", str(asked.samples)], capture_output=True, text=True, check=True
            )
            row = json.loads(told.stdout)
            rows.append(row)
            print(
                f"{cut:7} {budget / MIB:6.0f} MiB  peak {row['peak_rss_bytes'] / MIB:6.0f} MiB "
                f"({row['peak_rss_bytes'] / budget:5.2f} ×)  {row['samples_per_run']:3} a run  {row['seconds']:6.1f} s"
                f"  {row['note']}",
                flush=True,
            )
    if asked.out:
        asked.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

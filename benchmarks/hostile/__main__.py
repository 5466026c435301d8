"""Mutants of every kind of file, each given to a command: outcomes by exit code, and what must not be.

    python -m benchmarks.hostile --mutants 20000 [--seed 0] [--first 0] [-o mutants.jsonl] [--keep FOLDER]
    python -m benchmarks.hostile --mutants 150 --only compress|explain|report|findings|verify

Draw n is a function of the seed and n alone. A hang is a command that ran for more than 10 seconds, a crash one that a
signal ended, a traceback exit 70, untold an exit code without its line or a line that is not ours, left a failure that
left a file. Every one of these is told; with --keep, its file is kept.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.hostile.children import Outcome, Runner
from benchmarks.hostile.mutants import mutant
from benchmarks.hostile.seeds import CHAIN, MAIN, write_seeds

Row = dict[str, Any]
WRONG = ("hang", "crash", "traceback", "untold", "left")
READ = "inspect MUTANT", "inspect MUTANT --memory", "groups MUTANT", "prune MUTANT --budget units<=50% --dry-run"
MODELS = tuple(f for f in READ * 4)
MODELS += (
    "init MUTANT -o out.toml",
    "prune MUTANT --budget params<=60% -o out.onnx",
    "prune MUTANT --budget units<=50% --mask-only -o out.onnx",
)
MODELS += ("targets estimate MUTANT --target stm32h7", "verify MUTANT MUTANT", "gradient MUTANT --at a -o out.onnx")
COMMANDS: dict[str, tuple[str, ...]] = {  # file, or its ending -> commands that read it, one drawn for each mutant
    "data.npz": (f"rank {MAIN} --data MUTANT --criterion activation --samples 4 -o out.npz",),
    "ranks.npz": (f"prune {MAIN} --ranks MUTANT --budget units<=50% --dry-run",),
    "plan.json": (f"prune {MAIN} --plan MUTANT -o out.onnx",),
    "row.json": (f"targets estimate {MAIN} --target stm32h7 --calibrate MUTANT",),
    "baseline.json": ("check --config budgets.toml --baseline MUTANT",),
    "rows.json": (f"bench {MAIN} --runs 1 --warmup 0 --compare MUTANT",),
    "budgets.toml": ("check --config MUTANT",),
    "board.toml": ("targets show MUTANT", f"targets estimate {MAIN} --target MUTANT"),
    ".tflite": ("inspect MUTANT", "inspect MUTANT --memory"),
    ".onnx": MODELS,
}
RUNS = {  # in place of these, one time in 50: commands that run what they read
    ".onnx": (
        "export MUTANT --to onnx,tflite -o out",
        "rank MUTANT --data data.npz --criterion taylor --samples 4 -o out.npz",
    ),
    ".tflite": (f"verify {MAIN} MUTANT",),
}
SLOW = {  # asked for by --only: names of the files -> what is run on each mutant
    "compress": ("*.onnx", "compress MUTANT --criterion magnitude --budget units<=50% --runs 0 --to onnx -o out"),
    "explain": (MAIN, "explain MUTANT --data data.npz --figures sorted,prune-curve --orders 1 --steps 2 -o out"),
    "report": ("report.json", "report made"),
    "findings": ("findings.json", f"prune {MAIN} --from-findings MUTANT --dry-run"),
    "verify": (f"{CHAIN}*", f"verify {MAIN} made"),
}
SHARES = {".onnx": 12, ".npz": 3, ".json": 3, ".toml": 3, ".tflite": 3}  # of the mutants
RARE = 50


def drawn(seed: int, n: int, seeds: dict[str, Path], only: str = "") -> tuple[str, str, bytes, list[str]]:
    """Mutant n: the file that it was, how it was damaged, its bytes, and the words of its command.

    only  a key of SLOW, in place of all other commands
    """
    draw = np.random.default_rng([seed, n])
    if only:
        names, command = SLOW[only]
        name = str(draw.choice(fnmatch.filter(seeds, names)))
        return name, *mutant(name, seeds[name].read_bytes(), draw), command.split()
    ending = str(draw.choice(list(SHARES), p=np.array([*SHARES.values()]) / sum(SHARES.values())))
    names = [k for k in seeds if k.endswith(ending) and (k in COMMANDS or ending in COMMANDS) and k != "rows.json"]
    if ending == ".json" and draw.integers(RARE) == 0:
        names = ["rows.json"]
    name = names[draw.integers(len(names))]
    way, content = mutant(name, seeds[name].read_bytes(), draw)
    options = COMMANDS.get(name, COMMANDS.get(ending, ()))
    if ending in RUNS and draw.integers(RARE) == 0:
        options = RUNS[ending]
    return name, way, content, options[draw.integers(len(options))].split()


def tried(seed: int, n: int, seeds: dict[str, Path], folder: Path, runner: Runner, only: str = "") -> Row:
    """What came of mutant n; the folder is as before."""
    name, way, content, words = drawn(seed, n, seeds, only)
    path = folder / place(name)
    path.parent.mkdir(exist_ok=True)
    for other in fnmatch.filter(seeds, f"{CHAIN}*") if name.startswith(CHAIN) else ():
        shutil.copy(seeds[other], folder / place(other))
    path.write_bytes(content)
    found = runner.run([path.name if w == "MUTANT" else w for w in words], folder)
    path.unlink()
    for left in {p for p in folder.rglob("*") if p.is_file()} - {folder / k for k in seeds}:
        left.unlink()
    for left in [p for p in folder.iterdir() if p.is_dir()]:
        shutil.rmtree(left)
    return row(found) | {"n": n, "file": name, "way": way, "words": " ".join(words), "sha256": sha256(content)}


def place(name: str) -> str:
    """Where its command looks for a file: what it is not told by name lies in a folder."""
    is_inside = name == "report.json" or name.startswith(CHAIN)
    return f"made/{name.removeprefix(CHAIN)}" if is_inside else f"mutant{Path(name).suffix}"


def row(found: Outcome) -> Row:
    """What is kept of an outcome."""
    told = found.stderr.strip()[-600:] if found.kind in WRONG else found.stderr.strip()[-160:]
    facts = {"kind": found.kind, "code": found.code, "signal": found.signal, "told": told, "left": found.left}
    return facts | {"seconds": found.seconds, "peak_rss_bytes": found.peak_rss_bytes}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def summary(rows: list[Row]) -> str:
    """Outcomes by kind of file and exit code, and the largest of what is bounded."""
    lines = []
    for ending in SHARES:
        mine = [r for r in rows if r["file"].endswith(ending)]
        if not mine:
            continue
        codes = Counter(f"exit {r['code']}" if r["code"] is not None else f"signal {r['signal']}" for r in mine)
        kinds = Counter(r["kind"] for r in mine)
        lines.append(
            f"{ending:8} {len(mine):6} mutants · " + " · ".join(f"{k} {v}" for k, v in sorted(codes.items()))
            + " · " + " · ".join(f"{k} {kinds[k]}" for k in WRONG)
        )  # fmt: skip
    slowest, largest = max(rows, key=lambda r: r["seconds"]), max(rows, key=lambda r: r["peak_rss_bytes"])
    lines.append(f"slowest {slowest['seconds']:.1f} s (n={slowest['n']}, {slowest['words']})")
    lines.append(f"largest {largest['peak_rss_bytes'] / 2**20:.0f} MiB (n={largest['n']}, {largest['words']})")
    return "\n".join(lines)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--mutants", type=int, default=500)
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--first", type=int, default=0)
    asked.add_argument(
        "--only", choices=SLOW, default="", help="One command that takes longer, in place of all others."
    )
    asked.add_argument("-o", "--out", type=Path, help="A row for each mutant, as JSON lines.")
    asked.add_argument("--keep", type=Path, help="Folder for the files that something was wrong with.")
    given = asked.parse_args()
    rows: list[Row] = []
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as there, Runner() as runner:
        seeds = write_seeds(Path(there))
        for n in range(given.first, given.first + given.mutants):
            rows.append(tried(given.seed, n, seeds, Path(there), runner, given.only))
            if rows[-1]["kind"] in WRONG:
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
                if given.keep is not None:
                    given.keep.mkdir(parents=True, exist_ok=True)
                    name, _, content, _ = drawn(given.seed, n, seeds, given.only)
                    (given.keep / f"{n}{Path(name).suffix}").write_bytes(content)
            if given.out is not None:
                with given.out.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    print(summary(rows))
    print(f"{len(rows)} mutants in {time.monotonic() - begun:.0f} s")
    sys.exit(any(r["kind"] in WRONG for r in rows))


if __name__ == "__main__":
    main()

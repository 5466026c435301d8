"""The same hostile model files given to other tools: how often each refuses, breaks, hangs, or writes a result.

    python -m benchmarks.hostile.others --python /path/of/their/python [--mutants 500] [--json FILE]

told: it failed and said so; traceback: it failed with one; crash: by a signal; hang: 10 s; accepted: it ended well.
Of the files of the table, it is known which have to be refused. Mutants are told apart by whether onnxruntime loads and
runs them: most that it runs are to be accepted, but not all (NaN among the weights, no opset, a shape that is open).
jettison-normalise is `prune --budget units<=100%`, which writes the network back as it is.
"""

from __future__ import annotations

import argparse
import itertools
import json
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.hostile.children import Outcome, Runner
from benchmarks.hostile.files import write_files
from benchmarks.hostile.mutants import mutant
from benchmarks.hostile.rows import PRUNE, ROWS
from benchmarks.hostile.seeds import write_seeds

OURS = {"jettison-inspect": "inspect {}", "jettison-normalise": "prune {} --budget units<=100% -o made.onnx"}
THEIRS = ("polygraphy-inspect", "polygraphy-sanitize", "onnxslim")
KINDS = ("told", "traceback", "crash", "hang", "accepted")


def kind(found: Outcome) -> str:
    """How a run looks to whoever started it."""
    if found.signal:
        return "hang" if found.signal == signal.SIGALRM else "crash"
    if "Traceback (most recent call last)" in found.stderr + found.stdout or found.code == 70:
        return "traceback"
    return "told" if found.code else "accepted"


def refused() -> set[str]:
    """Names of the files that have to be refused whatever is asked of them."""
    cases = [c for cases in ROWS.values() for c in cases if c.command == PRUNE and set(c.codes) <= {3, 4}]
    return {Path(c.file).stem for c in cases if c.file.startswith("models/")} - {"none"}


def mutants(seeds: dict[str, Path], folder: Path, count: int) -> Iterator[Path]:
    """Damaged copies of the networks among the seeds, drawn with seed 1."""
    names = [k for k in seeds if k.endswith(".onnx")]
    for n in range(count):
        draw = np.random.default_rng([1, n])
        name = names[draw.integers(len(names))]
        path = folder / f"mutant{n}.onnx"
        path.write_bytes(mutant(name, seeds[name].read_bytes(), draw)[1])
        yield path


def tried(tool: str, python: str, paths: Sequence[Path], folder: Path) -> list[Outcome]:
    """What a tool makes of each file."""
    server = () if tool in OURS else (python, ("benchmarks.rivals.hostile_case", tool))
    found = []
    with Runner(*server) as runner:
        for path in paths:
            words = OURS[tool].split() if tool in OURS else ["{}", "made.onnx"]
            found.append(runner.run([str(path) if w == "{}" else w for w in words], folder))
            (folder / "made.onnx").unlink(missing_ok=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="Of the environment with the other tools.")
    parser.add_argument("--mutants", type=int, default=500)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    counts: dict[str, Counter[str]] = {}
    worst: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as there:
        folder = Path(there)
        seeds = write_seeds(folder)
        rows = [p for name, p in write_files(folder).items() if name in refused()]
        drawn = list(mutants(seeds, folder, asked.mutants))
        runs = [kind(o) == "accepted" for o in tried("onnxruntime", asked.python, drawn, folder)]
        sets = {
            "bad files": rows,
            "mutants that run": [p for p, is_run in zip(drawn, runs, strict=True) if is_run],
            "mutants that do not": [p for p, is_run in zip(drawn, runs, strict=True) if not is_run],
        }
        for tool, (which, paths) in itertools.product((*OURS, *THEIRS), sets.items()):
            found = tried(tool, asked.python, paths, folder)
            counts[f"{tool}, {which}"] = Counter(map(kind, found))
            worst[tool] = max(worst.get(tool, 0), *(o.peak_rss_bytes for o in found))
    for name, each in counts.items():
        told = " · ".join(f"{k} {each[k]}" for k in KINDS)
        print(f"{name:40} {each.total():5} files · {told} · {worst[name.partition(',')[0]] >> 20} MiB at most")
    if asked.json is not None:
        asked.json.write_text(json.dumps({k: dict(v) for k, v in counts.items()}, indent=1) + "\n")


if __name__ == "__main__":
    main()

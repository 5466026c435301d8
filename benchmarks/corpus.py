"""Surgery over a corpus of exported networks: is it exact on each, how much goes, how long does it take?

    python -m benchmarks.corpus FOLDER --out corpus.jsonl [--jobs 2] [--only REGEX] [--timeout 300]
    python -m benchmarks.corpus --table corpus.jsonl [--against onnxsim.jsonl torch_pruning.jsonl]
    python -m benchmarks.corpus FOLDER --out RIVAL.jsonl --python PATH --module benchmarks.rivals.RIVAL_case -- OPTIONS

FOLDER holds NAME.onnx with its probe inputs NAME.npz, and where it was exported a manifest.jsonl; networks that the
manifest calls not ok are left out. Each network gets a process of its own with limits on time and memory, so that a
crash costs one line. Lines already in the file are kept: stop and start as you like.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OURS = "benchmarks.corpus_case"
ROOT = Path(__file__).resolve().parents[1]
Row = dict[str, Any]


def networks(folder: Path, only: str) -> list[Path]:
    """The networks of a corpus, the smallest first."""
    manifest = folder / "manifest.jsonl"
    lines = manifest.read_text().splitlines() if manifest.exists() else []
    bad = {r["name"] for r in map(json.loads, lines) if not r.get("ok")}
    found = [p for p in folder.glob("*.onnx") if p.with_suffix(".npz").exists() and re.search(only, p.stem)]
    return sorted((p for p in found if p.stem not in bad), key=lambda p: p.stat().st_size)


def rows_of(file: Path) -> list[Row]:
    """What was found so far; a second line of a network replaces the first."""
    lines = file.read_text().splitlines() if file.exists() else []
    return list({r["name"]: r for r in map(json.loads, lines)}.values())


@dataclass(frozen=True)
class Case:
    """How one network is run: the interpreter, the module, what follows the path, and its limits."""

    python: str
    module: str
    options: tuple[str, ...]
    timeout: float
    memory: int


def child(path: Path, case: Case) -> Row:
    """One network in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [case.python, "-m", case.module, str(path), *case.options]
    row: Row = {"name": path.stem, "bytes": path.stat().st_size}
    limit = lambda: resource.setrlimit(resource.RLIMIT_DATA, (case.memory, case.memory))
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=case.timeout, preexec_fn=limit
        )
    except subprocess.TimeoutExpired as error:
        found = last_row((error.stdout or b"").decode())
        return found or row | {"status": "timeout", "reason": f"more than {case.timeout:g} s"}
    found = last_row(done.stdout)
    if found and (done.returncode == 0 or "gradient" in found):
        return found
    told = (done.stderr.strip().splitlines() or ["nothing"])[-1]
    return row | {"status": "crashed", "reason": f"exit {done.returncode}: {told[:300]}"}


def last_row(text: str) -> Row | None:
    """The last line of a child that is a row."""
    rows = [line for line in text.splitlines() if line.startswith("{") and line.endswith("}")]
    return json.loads(rows[-1]) if rows else None


def sweep(paths: Sequence[Path], out: Path, case: Case, jobs: int) -> None:
    """Run what has no line yet, a few at a time, and write each line as it comes."""
    done = {r["name"] for r in rows_of(out)}
    todo = [p for p in paths if p.stem not in done]
    with ThreadPoolExecutor(jobs) as pool, out.open("a") as file:
        running = {pool.submit(child, p, case): p for p in todo}
        for number, finished in enumerate(as_completed(running), start=1):
            row = finished.result()
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(f"[{number}/{len(todo)}] {summary(row)}", flush=True)


def summary(row: Row) -> str:
    """One line on the screen."""
    kept = f" params {100 * row['params_kept']:.0f} %" if "params_kept" in row else ""
    error = f" error {row['error']:.1e}" if "error" in row else ""
    checks = " ".join(g["status"] for g in row.get("gradient", ()))
    reason = row.get("reason", "") if row["status"] not in ("exact",) else ""
    return f"{row['name']}: {row['status']}{kept}{error} {checks} {reason}"[:220]


# ---- the table -----------------------------------------------------------------------------------------------------
def table(rows: Sequence[Row]) -> str:
    """Markdown: medians by family, then every network."""
    parts = ["| family | networks | exact | whole | refused | wrong | crashed, timeout | params kept | MACs kept |"
             " gradient right | load s | analysis + surgery s (worst) |", "|---|" * 1 + "---|" * 11]  # fmt: skip
    names = sorted({r.get("family", "unknown") for r in rows})
    for name in [*names, "all"]:
        parts.append(line_of(name, [r for r in rows if name in ("all", r.get("family", "unknown"))]))
    parts += [
        "",
        "| network | status | batch | groups | units | params kept % | error | noise | s | gradient | held by |",
    ]
    parts += ["|---|" + "---|" * 10]
    parts += [network_line(r) for r in sorted(rows, key=lambda r: (r.get("family", "unknown"), r["name"]))]
    return "\n".join(parts)


def line_of(name: str, rows: Sequence[Row]) -> str:
    """Medians of a family."""
    status = Counter(r["status"] for r in rows)
    checks = Counter(g["status"] for r in rows for g in r.get("gradient", ()))
    cut = [surgery_seconds(r) for r in rows if "prune" in r.get("seconds", {})]
    loads = [r["seconds"]["load"] for r in rows if "load" in r.get("seconds", {})]
    failed = status["crashed"] + status["timeout"]
    return (
        f"| {name} | {len(rows)} | {status['exact']} | {status['whole']} | {status['refused']} | {status['wrong']} | "
        f"{failed} | {median(rows, 'params_kept')} | {median(rows, 'macs_kept')} | "
        f"{checks['right']}/{sum(checks.values())} | {middle(loads)} | {middle(cut)} ({max(cut, default=0):.2f}) |"
    )


def surgery_seconds(row: Row) -> float:
    """Analysis and surgery, without planning."""
    return row["seconds"]["analyse"] + row["seconds"]["prune"]


def median(rows: Sequence[Row], key: str) -> str:
    return middle([r[key] for r in rows if r["status"] in ("exact", "whole") and key in r])


def middle(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f}" if values else "–"


def network_line(row: Row) -> str:
    """One network."""
    checks = ", ".join(f"{g['status']} {g['relative']:.0e}" if "relative" in g else g["status"]
                       for g in row.get("gradient", ()))  # fmt: skip
    seconds = f"{surgery_seconds(row):.2f}" if "prune" in row.get("seconds", {}) else ""
    shown = [f"{100 * row['params_kept']:.0f}" if "params_kept" in row else ""]
    shown += [f"{row[k]:.1e}" if k in row else "" for k in ("error", "noise")]
    reason = str(row.get("reason", ""))[:120].replace("|", "\\|")
    cells = [row["name"], row["status"], row.get("batch", ""), row.get("groups", ""), row.get("units", ""), *shown,
             seconds, checks, reason]  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


def comparison(tools: dict[str, Sequence[Row]]) -> str:
    """Markdown: one line for each tool, over the networks that all of them were run on."""
    common = set.intersection(*({r["name"] for r in rows} for rows in tools.values()))
    parts = [f"{len(common)} networks", "", "| tool | equals the masked network | wrong | other shapes |"
             " crashed, refused | untouched | params kept | prune s | peak MB |", "|---|" + "---|" * 8]  # fmt: skip
    for tool, rows in tools.items():
        mine = [r for r in rows if r["name"] in common]
        status = Counter(r["status"] for r in mine)
        good = [r for r in mine if r["status"] in ("exact", "whole", "right")]
        whole = [r for r in good if r.get("is_untouched", r["status"] == "whole")]
        failed = sum(status[s] for s in ("crashed", "timeout", "refused"))
        seconds = [sum(r["seconds"].get(s, 0) for s in ("analyse", "plan", "prune")) for r in good]
        peak = [r["peak_rss_bytes"] / 1e6 for r in good if "peak_rss_bytes" in r]
        parts.append(
            f"| {tool} | {len(good)} | {status['wrong']} | {status['shapes']} | {failed} | {len(whole)} | "
            f"{middle([r['params_kept'] for r in good])} | {middle(seconds)} | {statistics.median(peak or [0]):.0f} |"
        )
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--out", type=Path, default=Path("corpus.jsonl"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="")
    parser.add_argument("--timeout", type=float, default=300)
    parser.add_argument("--memory", type=float, default=8, help="GiB for each network")
    parser.add_argument("--table", type=Path, help="print the table of a file instead")
    parser.add_argument("--against", type=Path, nargs="*", default=[], help="files of rivals, for a table of tools")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--module", default=OURS)
    given = sys.argv[1:]
    mine = given[: given.index("--")] if "--" in given else given
    asked = parser.parse_args(mine)
    if asked.table is not None:
        rows = rows_of(asked.table)
        print(
            comparison({"jettison": rows} | {p.stem: rows_of(p) for p in asked.against})
            if asked.against
            else table(rows)
        )
        return
    if asked.folder is None:
        parser.error("FOLDER is missing")
    options = given[len(mine) + 1 :]  # the module's own
    case = Case(asked.python, asked.module, tuple(options), asked.timeout, int(asked.memory * 2**30))
    sweep(networks(asked.folder, asked.only), asked.out, case, asked.jobs)
    if asked.module == OURS:
        print(table(rows_of(asked.out)))


if __name__ == "__main__":
    main()

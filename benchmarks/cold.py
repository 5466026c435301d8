"""Wall time and peak memory of a cold process: a fresh interpreter, nothing imported, files in the page cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# A child's peak is never less than what its parent held when it forked, so a bare interpreter of 10 MB stands between.
LAUNCHER = """
import json, os, sys, time
begun = time.perf_counter()
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, used = os.wait4(child, 0)
seconds = time.perf_counter() - begun
print(json.dumps([os.waitstatus_to_exitcode(status), seconds, used.ru_maxrss * 1024, used.ru_utime + used.ru_stime]),
      file=sys.stderr)
"""


@dataclass(frozen=True)
class Cold:
    """One run: wall and processor time, peak resident memory, and what it printed."""

    seconds: float
    cpu_seconds: float
    peak_rss_bytes: int
    stdout: str


def cold(arguments: Sequence[str | Path], threads: int = 1) -> Cold:
    """Run this interpreter on these arguments in the repository's root; raises RuntimeError unless it exits with 0.

    Bytecode is written and used, as pip does at installation: else each run here would compile our sources anew, and
    none of the packages'.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", LAUNCHER, sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
    )
    *noise, last = done.stderr.strip().splitlines() or [""]
    if done.returncode or not last.startswith("["):
        raise RuntimeError(done.stderr)
    code, seconds, peak, used = json.loads(last)
    if code:
        raise RuntimeError(f"{' '.join(map(str, arguments))} exited with {code}: " + "\n".join(noise[-20:]))
    return Cold(seconds, used, peak, done.stdout)

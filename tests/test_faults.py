"""Whatever kills a run, and whenever: each result is the old one or the new one, and the next run leaves nothing else.

Commands that take longer are walked by hand: python -m benchmarks.faults.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("benchmarks", reason="run pytest from the repository root")

from benchmarks.faults import SAVES
from toolchain.cli import cli

ROOT = Path(__file__).parents[1]
READING = {"bench", "demo", "doctor", "groups", "inspect", "ops", "targets"}
TRAINING = {"sparsify", "tune"}  # many rounds, each file of which is written as retrain writes its own
QUICK = ("prune", "gradient", "init")


def test_no_kill_and_no_full_disk_loses_a_file() -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.faults", *QUICK],
        capture_output=True, text=True, cwd=ROOT, env=env, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    tried = re.search(r"fault points tried (\d+), files lost 0; .* (\d+), right \2$", done.stdout.strip())
    assert tried and int(tried[1]) >= 3 * len(QUICK), done.stdout


def test_every_command_that_writes_is_walked() -> None:
    """demo writes as compress does; the others of these print, or keep what is fetched in a cache of their own."""
    assert set(cli.commands) - READING - TRAINING == {save.words[0] for save in SAVES.values()}

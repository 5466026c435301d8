"""Whatever kills a run, and whenever: each result is the old one or the new one, and the next run leaves nothing else.

Commands that take longer are walked by hand: python -m benchmarks.faults.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

pytest.importorskip("benchmarks", reason="run pytest from the repository root")

from benchmarks.faults.saves import SAVES
from toolchain.cli import cli

ROOT = Path(__file__).parents[1]
READING = {"doctor", "groups", "inspect", "ops"}
AS_COMPRESS = {"demo"}  # the same job on what ships with the package
QUICK = ("prune", "gradient", "init")
READ = {
    *("model", "models", "pruned", "folder", "--config", "--data", "--test", "--validation", "--inputs", "--compare"),
    *("--plan", "--ranks", "--from-findings", "--calibration", "--calibrate", "--teacher"),
}
WRITTEN = {
    *("--out", "--save", "--save-baseline", "--report", "--record", "--plan-out", "--checkpoint", "--history"),
}


def walked(*words: str) -> int:
    """Fault points that were tried, none of which did any harm."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.faults", *words],
        capture_output=True, text=True, cwd=ROOT, env=env, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    tried = re.search(r"fault points tried (\d+), files lost 0; .* (\d+), right \2$", done.stdout.strip())
    assert tried, done.stdout
    return int(tried[1])


def test_no_kill_and_no_full_disk_loses_a_file() -> None:
    assert walked(*QUICK) >= 3 * len(QUICK)


@pytest.mark.parametrize(("command", "every", "needs"), [("rank", 37, ""), ("retrain", 9, "torch")])
def test_a_run_that_was_killed_anywhere_goes_on_to_the_same_bytes(command: str, every: int, needs: str) -> None:
    """Both keep what they have as they go: between the kills there is a record of each age, whole or half written."""
    pytest.importorskip(needs or "numpy", reason=f"{needs} is not installed")
    assert walked(command, "--every", str(every), "--no-disks") >= 3


def test_an_interrupt_is_one_line_and_leaves_nothing_half_written() -> None:
    assert walked("compress", "--interrupt", "--every", "13", "--no-disks") >= 6


# ---- every command ---------------------------------------------------------------------------------------------------
def test_every_command_that_writes_is_walked() -> None:
    assert set(cli.commands) - READING - AS_COMPRESS == {save.words[0] for save in SAVES.values()}


def options(command: click.Command) -> Iterator[click.Parameter]:
    """Of a command and of those within it."""
    yield from command.params
    for inner in command.commands.values() if isinstance(command, click.Group) else ():
        yield from options(inner)


def test_every_path_is_known_as_one_that_is_read_or_written() -> None:
    named = {max(o.opts, key=len) for o in options(cli) if isinstance(o.type, click.Path)}
    assert named <= READ | WRITTEN, "say of a new one which it is, and give it to a command of SAVES if it is written"


@pytest.mark.parametrize("name", sorted(set(cli.commands) - READING - AS_COMPRESS))
def test_every_file_that_a_command_writes_is_walked(name: str) -> None:
    words = {word for save in SAVES.values() if save.words[0] == name for word in save.words}
    for option in options(cli.commands[name]):
        if max(option.opts, key=len) in WRITTEN:
            assert words & set(option.opts), f"no command of SAVES gives {option.opts}"

"""Children get no more memory than they are given."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from targets.memory import bound, memory_bytes

GREEDY = "import sys; sys.stdin.readline(); block = bytearray(1 << 30)"


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="no limits of other processes on this system")
@pytest.mark.parametrize(("most", "is_starved"), [(1 << 28, True), (1 << 32, False)])
def test_a_child_gets_no_more_than_its_bound(most: int, is_starved: bool) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", GREEDY], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        bound(process.pid, most)
        _, said = process.communicate("\n", timeout=60)
    assert ("MemoryError" in said) == is_starved == (process.returncode != 0)


def test_this_computer_has_memory() -> None:
    assert memory_bytes() > 1 << 26

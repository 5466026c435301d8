"""Every row of the table of bad inputs, as commands in children: exit code, one line, nothing left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("benchmarks.hostile", reason="run pytest from the repository root")

from benchmarks.hostile.children import Runner
from benchmarks.hostile.rows import ELSEWHERE, ROWS, SECONDS, write_all

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner() as found:
        yield found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("bad")
    write_all(found)
    return found


@pytest.mark.parametrize("row", ROWS)
def test_a_bad_input_is_one_line_with_its_exit_code_and_leaves_nothing(row: str, folder: Path, runner: Runner) -> None:
    wrong = []
    for case in ROWS[row]:
        found = runner.run(case.words, folder, seconds=SECONDS)
        wrong.append(f"{case.words}: {case.wrong(found)}" if case.wrong(found) else "")
    assert not any(wrong), "\n".join(wrong)


@pytest.mark.parametrize("row", ELSEWHERE)
def test_a_row_that_is_held_elsewhere_is_held_there(row: str) -> None:
    path, _, name = ELSEWHERE[row].partition("::")
    assert f"def {name}" in (ROOT / path).read_text()

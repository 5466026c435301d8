"""Every row of the table of bad inputs, as commands in children: exit code, one line, nothing left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("benchmarks.hostile", reason="run pytest from the repository root")

from benchmarks.hostile.children import Runner
from benchmarks.hostile.rows import ASCII, ELSEWHERE, ROWS, judged, write_all

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def runners() -> Iterator[dict[bool, Runner]]:
    """Without and with an ASCII locale."""
    with Runner() as found, Runner(environment=ASCII) as other:
        yield {False: found, True: other}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("bad")
    write_all(found)
    return found


@pytest.mark.parametrize("row", ROWS)
def test_a_bad_input_is_one_line_with_its_exit_code_and_leaves_nothing(
    row: str, folder: Path, runners: dict[bool, Runner]
) -> None:
    found = judged(folder, runners, {row: ROWS[row]})[row]
    assert not any(found), "\n".join(filter(None, found))


@pytest.mark.parametrize("row", ELSEWHERE)
def test_a_row_that_is_held_elsewhere_is_held_there(row: str) -> None:
    path, name = ELSEWHERE[row]
    assert f"def {name}" in (ROOT / path).read_text()

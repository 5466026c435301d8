"""Laws of folders that are one run's alone: what is killed leaves nothing for long, and nobody takes what is in use."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from test_files import child as running

from targets import locks
from targets.locks import PREFIX, alone, scratch


def child(code: str, path: Path) -> AbstractContextManager[subprocess.Popen[str]]:
    """Another process that enters this block on a path, says a line when it is in, and waits."""
    inside = "    print('there', flush=True)\n    time.sleep(60)"
    return running(f"import time\nfrom targets.locks import alone, scratch\nwith {code}:\n{inside}", path)


def killed(process: subprocess.Popen[str]) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_a_scratch_folder_is_gone_at_the_end_whatever_the_end_is(tmp_path: Path) -> None:
    with scratch(tmp_path) as folder:
        (folder / "file").touch()
        assert folder.parent == tmp_path
    with pytest.raises(ZeroDivisionError), scratch(tmp_path) as folder:
        (folder / "file").touch()
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_what_a_killed_run_left_goes_with_the_next_and_a_living_ones_stays(tmp_path: Path) -> None:
    with child("scratch(path)", tmp_path) as alive, child("scratch(path)", tmp_path) as dying:
        killed(dying)
        assert len(list(tmp_path.iterdir())) == 2
        with scratch(tmp_path):
            assert len(list(tmp_path.iterdir())) == 2
        assert len(list(tmp_path.iterdir())) == 1
        killed(alive)
        with scratch(tmp_path):
            pass
    assert not list(tmp_path.iterdir())


def test_only_scratch_folders_of_this_user_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    behind = tmp_path / "behind"
    for name in ("jettison-12345678", f"{PREFIX}notes", f"{PREFIX}123456789"):
        (tmp_path / name).mkdir()
    (tmp_path / f"{PREFIX}filefile").touch()
    behind.mkdir()
    (behind / "file").touch()
    (tmp_path / f"{PREFIX}linklink").symlink_to(behind)
    before = sorted(tmp_path.rglob("*"))
    with scratch(tmp_path):
        pass
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / f"{PREFIX}strange1").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(os, "geteuid", lambda: os.getuid() + 1)
        locks.swept(tmp_path)
    assert (tmp_path / f"{PREFIX}strange1").exists()


def test_a_scratch_folder_that_was_taken_for_a_dead_runs_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = locks.locked

    def late(handle: int) -> bool:
        monkeypatch.setattr(locks, "locked", real)
        locks.swept(tmp_path)
        return real(handle)

    monkeypatch.setattr(locks, "locked", late)
    with scratch(tmp_path) as folder:
        assert list(tmp_path.iterdir()) == [folder]


def test_without_locks_nothing_is_swept_and_all_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(handle: int) -> bool:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(locks, "locked", unsupported)
    (tmp_path / f"{PREFIX}whoever1").mkdir()
    with scratch(tmp_path) as folder, alone(tmp_path) as is_mine:
        assert is_mine and folder.is_dir()
    assert [p.name for p in tmp_path.iterdir()] == [f"{PREFIX}whoever1"]


def test_a_folder_is_one_runs_alone_until_it_ends(tmp_path: Path) -> None:
    with child("alone(path)", tmp_path / "new") as other:
        with alone(tmp_path / "new") as is_mine:
            assert not is_mine
        killed(other)
        with alone(tmp_path / "new") as is_mine:
            assert is_mine

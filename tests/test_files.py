"""Writers do not meet: what is killed leaves nothing that hinders, and a folder has one writer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from toolchain import files
from toolchain.errors import BadInput, UsageError
from toolchain.files import folder, write_atomic, write_text

ROOT = Path(__file__).parents[1]
LONG = "ü" * 127  # 254 bytes: no name may be longer than 255


@contextmanager
def child(code: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that runs this on a path, says a line when it is there, and waits."""
    words = [sys.executable, "-c", f"import sys, pathlib\npath = pathlib.Path(sys.argv[1])\n{code}", str(path)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None and process.stdout.readline() == "there\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close() if process.stdout else None


IN_FOLDER = (
    "from toolchain.files import folder\n"
    "with folder(path):\n"
    "    print('there', flush=True); __import__('time').sleep(60)"
)
WRITING = (
    "from toolchain.files import write_atomic\n"
    "def slow(file):\n"
    "    file.write(b'half'); file.flush(); print('there', flush=True); __import__('time').sleep(60)\n"
    "write_atomic(path, slow)"
)


def test_a_folder_has_one_writer_and_the_refusal_names_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with child(IN_FOLDER, out) as other:
        with pytest.raises(UsageError, match=rf"another run \(pid {other.pid}\) writes to .*out\. Wait"), folder(out):
            pass
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
        with folder(out) as note:
            assert note == "" and not any(out.iterdir()), "the kernel dropped the lock, and no file tells of it"


def test_a_folder_that_its_writer_removed_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening a folder and locking it, the run before may have removed it."""
    out, real = tmp_path / "out", files.locked

    def late(handle: int) -> bool:
        monkeypatch.setattr(files, "locked", real)
        out.rmdir()
        return real(handle)

    monkeypatch.setattr(files, "locked", late)
    with folder(out):
        (out / "file").write_text("x")


def test_a_folder_without_locks_is_told_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(handle: int) -> bool:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(files, "locked", unsupported)
    with folder(tmp_path / "out") as note:
        assert "no locks" in note
        write_text(tmp_path / "out" / "file", "text")
        write_text(tmp_path / "out" / "file", "another")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["file"]


def test_what_a_killed_writer_left_is_removed_by_the_next_and_a_living_ones_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a[b]*.json"
    other = tmp_path / ".another.json.abcd1234.tmp"
    other.write_text("of another file: not ours to remove")
    with child(WRITING, path) as alive, child(WRITING, path) as dying:
        assert len(list(tmp_path.glob(".a[[]*.tmp"))) == 2
        os.kill(dying.pid, signal.SIGKILL)
        dying.wait()
        write_text(path, "whole")
        assert path.read_text() == "whole" and len(list(tmp_path.glob(".a[[]*.tmp"))) == 1
        os.kill(alive.pid, signal.SIGKILL)
        alive.wait()
    write_text(path, "again")
    assert sorted(tmp_path.iterdir()) == sorted([path, other])


def test_a_temporary_file_that_was_taken_for_a_dead_runs_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, path = files.locked, tmp_path / "file"

    def late(handle: int) -> bool:
        monkeypatch.setattr(files, "locked", real)
        files.clear(path)
        return real(handle)

    monkeypatch.setattr(files, "locked", late)
    write_text(path, "whole")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("file", "whole")]


def test_many_writers_of_one_file_leave_one_of_theirs_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    texts = [str(i) * 100_000 for i in range(8)]
    threads = [threading.Thread(target=write_text, args=(path, t)) for t in texts for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in texts and list(tmp_path.iterdir()) == [path]


def test_a_name_may_be_as_long_as_names_may_be(tmp_path: Path) -> None:
    write_text(tmp_path / LONG, "text")
    assert [p.name for p in tmp_path.iterdir()] == [LONG]


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(BadInput, match="cannot write: No space left on device"):
        write_atomic(path, lambda file: (file.write(b"half"), (_ for _ in ()).throw(OSError(28, os.strerror(28)))))
    with pytest.raises(ZeroDivisionError):
        write_atomic(path, lambda file: file.write(bytes(1 // 0)))
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("file", "old")]

"""A command in a child that is ended at one of its file operations."""

from __future__ import annotations

import io
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.faults.saves import Save

UNFORCED = ("report", "targets")  # are there to replace what they wrote


class Points:
    """The file operations of this process in a folder, one a line of `log`; the last one that it takes part in is `at`.

    Python tells of all but writes and fsync by itself: nothing that opens a file some other way is missed.
    """

    EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link")

    def __init__(self, folder: Path, log: int, at: int, sent: signal.Signals) -> None:
        self.folder, self.log, self.at, self.sent, self.seen = f"{folder}{os.sep}", log, at, sent, 0
        sys.addaudithook(self.told)
        fsync, fdopen = os.fsync, os.fdopen
        os.fsync = lambda handle: (self.point("fsync", named(handle)), fsync(handle))[1]
        os.fdopen = lambda handle, mode="r", *more, **rest: (
            io.BufferedWriter(Halved(self, handle)) if mode == "wb" else fdopen(handle, mode, *more, **rest)
        )

    def told(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An audit event of Python's."""
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in self.EVENTS:
            self.point(event, arguments[1 if event == "os.rename" else 0])

    def point(self, what: str, path: object, half: Callable[[], object] = lambda: None) -> None:
        """One operation, not yet done."""
        full = os.path.abspath(os.fsdecode(path)) if isinstance(path, str | bytes | os.PathLike) else ""
        if not full.startswith(self.folder):
            return
        self.seen += 1
        os.write(self.log, f"{what} {full.removeprefix(self.folder)}\n".encode())
        if self.seen == self.at:
            half()
            os.kill(os.getpid(), self.sent)


class Halved(io.FileIO):
    """A file that writes the first half when the process is killed in the middle."""

    def __init__(self, points: Points, handle: int) -> None:
        super().__init__(handle, "wb")
        self.points = points

    def write(self, data: Any) -> int:
        """Write, or half of it."""
        view = memoryview(data).cast("B")
        self.points.point("write", named(self.fileno()), lambda: super(Halved, self).write(view[: len(view) // 2]))
        return super().write(view)


def named(handle: int) -> str:
    """The path of an open file."""
    return os.readlink(f"/proc/self/fd/{handle}")


@dataclass(frozen=True)
class Ended:
    """How a run ended: its exit code, negative for a signal; its fault points; what it said of errors, and loaded."""

    code: int
    points: tuple[str, ...]
    said: str
    loaded: tuple[str, ...]


def run(
    save: Save,
    folder: Path,
    at: int = 0,
    sent: signal.Signals = signal.SIGKILL,
    before: Callable[[], object] | None = None,
) -> Ended:
    """The command in a child of this process, sent a signal at point `at` if that is not 0.

    before  called in the child; its fault points are not told then
    """
    out, into = os.pipe()  # no file, which a limit on files would be about
    with tempfile.TemporaryFile() as log:
        child = os.fork()
        if not child:
            os.dup2(into, 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.chdir(folder)
            os.environ.update({name: value.format(work=folder.parent) for name, value in save.outside.items()})
            os.environ["TMPDIR"] = str(folder.parent / "tmp")
            tempfile.tempdir = None  # read it again
            for variable, value in save.given.items():
                module, _, name = variable.rpartition(".")
                setattr(import_module(module), name, value)
            if before is None:
                Points(folder, log.fileno(), at, sent)
            else:
                before()
            code = entered([*save.words, *([] if save.words[0] in UNFORCED else ["--force"])])
            if before is None:
                os.write(log.fileno(), f"\0{' '.join(sys.modules)}".encode())
            os._exit(code)
        os.close(into)
        with open(out, "rb") as said:
            text = said.read().decode()
        _, status = os.waitpid(child, 0)
        log.seek(0)
        points, _, names = log.read().decode().partition("\0")
        return Ended(os.waitstatus_to_exitcode(status), tuple(points.splitlines()), text, tuple(names.split()))


def entered(words: Sequence[str]) -> int:
    """The exit code of a command in this process."""
    from toolchain.cli import main

    sys.argv = ["jettison", "-q", *words]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0

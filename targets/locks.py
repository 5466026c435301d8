"""Folders that are one run's alone, by locks that the kernel drops when their process ends, however it ends.

None is ever stale: a scratch folder without a lock was left by a run that was killed, and the next run removes it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "jettison-scratch-"


@contextmanager
def scratch(parent: Path | str | None = None) -> Iterator[Path]:
    """A folder for what nobody asked for, gone at the end with those of runs that were killed.

    parent  where; None: TMPDIR's folder
    """
    swept(Path(parent or tempfile.gettempdir()))
    handle, name = new(parent)
    try:
        yield Path(name)
    finally:
        shutil.rmtree(name, ignore_errors=True)  # what a dying child still writes to, the next run removes
        os.close(handle)


def new(parent: Path | str | None) -> tuple[int, str]:
    """A new scratch folder, open, locked, and its name."""
    while True:
        name = tempfile.mkdtemp(prefix=PREFIX, dir=parent)
        with suppress(FileNotFoundError):  # another run found it before it was locked, and removed it
            handle = os.open(name, os.O_RDONLY | os.O_DIRECTORY)
            if kept(handle, name):
                return handle, name


def swept(parent: Path) -> None:
    """Remove the scratch folders that killed runs of this user left in a folder."""
    for left in parent.glob(f"{PREFIX}????????"):
        with suppress(OSError):  # it is not ours, or another run was faster: no reason not to go on
            handle = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(handle).st_uid == os.geteuid() and locked(handle):
                    shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(handle)


@contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Whether no other run is in the folder, which is made where it is missing; none comes in until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            is_mine = locked(handle)
        except OSError:  # no locks here
            is_mine = True
        yield is_mine
    finally:
        os.close(handle)


def locked(handle: int) -> bool:
    """Lock an open file until it is closed; False where another process has it. Raises OSError without locks."""
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def kept(handle: int, name: str) -> bool:
    """Lock what was just made until it is closed; where another run found it before, close it: that one removes it."""
    try:
        is_mine = locked(handle) and is_at(name, handle)
    except OSError:  # no locks here: nobody takes it for a dead run's either
        return True
    if not is_mine:
        os.close(handle)
    return is_mine


def is_at(path: Path | str, handle: int) -> bool:
    """Whether an open file still has this name: who waits for a lock may get that of a file that is gone."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False

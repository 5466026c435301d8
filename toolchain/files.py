"""Reading whole and writing: a reader sees the old file or the new one, and a folder has one writer at a time.

Both rest on locks that the kernel drops when their process ends, however it ends: none is ever stale. A temporary file
is locked while it is written, so that one without a lock was left by a run that was killed; a folder is locked itself,
and no file tells of it.
"""

from __future__ import annotations

import glob
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from targets.locks import is_at, kept, locked
from toolchain.errors import BadInput, UsageError

LONGEST = 100  # bytes of a name that a temporary file's begins with, of the 255 that a name may have
UNLOCKED = "its file system has no locks, so that a second run on it would not be noticed"


def read_bytes(path: Path, kind: str) -> bytes:
    """The bytes of an ordinary file; raises BadInput with the reason in the user's words."""
    try:
        if path.is_dir():
            raise BadInput(f"is a folder, {kind} is needed", str(path))
        if path.exists() and not path.is_file():
            raise BadInput("is not an ordinary file", str(path))
        return path.read_bytes()
    except FileNotFoundError as error:
        raise BadInput("no such file", str(path)) from error
    except OSError as error:
        raise BadInput(str(error.strerror).lower(), str(path)) from error


def check_new(path: Path, force: bool) -> None:
    """Raise UsageError if `path` exists and may not be overwritten, or BadInput if its folder is missing."""
    if path.is_dir():
        raise BadInput("is a folder, a file name is needed", str(path))
    if path.exists() and not force:
        raise UsageError(f"{path} exists", way_out="Use --force to replace it")
    if not path.parent.is_dir():
        raise BadInput("no such folder", str(path.parent), "Create it first")


def write_atomic(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a temporary file beside `path`, fsync it and rename it into place.

    The temporary file is gone whatever happens, but for a kill: then the next writer of `path` removes it. Permissions
    are those an ordinary new file would get. Raises BadInput when the folder cannot be written or the disk is full.
    """
    name = ""
    try:
        clear(path)
        handle, name = temporary(path)
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(name, 0o666 & ~mask)
            os.replace(name, path)
    except OSError as error:
        raise BadInput(f"cannot write: {error.strerror}", str(path)) from error
    finally:
        if name:
            Path(name).unlink(missing_ok=True)


def prefix(path: Path) -> str:
    """What the names of temporary files for `path` begin with."""
    return f".{os.fsencode(path.name)[:LONGEST].decode(sys.getfilesystemencoding(), errors='ignore')}."


def temporary(path: Path) -> tuple[int, str]:
    """A new file beside `path`, open, locked, and its name."""
    while True:
        handle, name = tempfile.mkstemp(prefix=prefix(path), suffix=".tmp", dir=path.parent)
        if kept(handle, name):
            return handle, name


def clear(path: Path) -> None:
    """Remove the temporary files that killed runs left beside `path`."""
    for name in path.parent.glob(f"{glob.escape(prefix(path))}????????.tmp"):
        with suppress(OSError):  # it is not ours, or another writer was faster: no reason not to write
            handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if locked(handle):
                    name.unlink()
            finally:
                os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    write_atomic(path, lambda file: file.write(text.encode()))


def write_json(path: Path, body: Any, **form: Any) -> None:
    """Write `body` as indented JSON with an end of line, atomically; `form` is `json.dumps`'s."""
    write_text(path, json.dumps(body, indent=1, **form) + "\n")


# ---- folders and locks ---------------------------------------------------------------------------------------------
@contextmanager
def folder(path: Path) -> Iterator[str]:
    """The folder, made where it is missing, this run's alone, and gone again where a mistake left it empty.

    Yields why other runs cannot be kept out of it, or "". Raises UsageError where one writes to it, BadInput where it
    cannot be made.
    """
    is_new = not path.exists()
    try:
        handle, note = owned(path)
    except OSError as error:
        raise BadInput(f"cannot make the folder: {error.strerror}", str(path)) from error
    try:
        yield note
    except BaseException:
        if is_new and path.is_dir() and not any(path.iterdir()):
            path.rmdir()
        raise
    finally:
        os.close(handle)


def owned(path: Path) -> tuple[int, str]:
    """The folder, made where it is missing, open and locked; and why it is not locked, or ""."""
    while True:
        path.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            is_mine = locked(handle)
        except OSError:
            return handle, UNLOCKED
        if is_mine and is_at(path, handle):
            return handle, ""
        who = "" if is_mine else holder(handle)
        os.close(handle)
        if not is_mine:
            raise UsageError(f"another run{who} writes to {path}", way_out="Wait for it, or give another -o")


def holder(handle: int) -> str:
    """The process that has locked an open file, where the kernel tells."""
    about = os.fstat(handle)
    device = f"{os.major(about.st_dev):02x}:{os.minor(about.st_dev):02x}:{about.st_ino}"
    with suppress(OSError), open("/proc/locks", encoding="ascii") as lines:
        for kind, _, _, number, where, *_ in (line.split()[1:] for line in lines):
            if kind == "FLOCK" and where == device and int(number) > 0:  # not of another container's processes
                return f" (pid {number})"
    return ""

"""Files read whole, and written atomically: a reader sees the old file or the new one, never half of one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from toolchain.errors import BadInput, UsageError


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

    The temporary file is gone whatever happens; permissions are those an ordinary new file would get.
    Raises BadInput when the folder cannot be written or the disk is full.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)
    except OSError as error:
        raise BadInput(f"cannot write: {error.strerror}", str(path)) from error
    try:
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
        Path(name).unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    write_atomic(path, lambda file: file.write(text.encode()))


@contextmanager
def folder(path: Path) -> Iterator[None]:
    """The folder, made where it is missing, and gone again where a mistake left it empty."""
    is_new = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot make the folder: {error.strerror}", str(path)) from error
    try:
        yield
    except BaseException:
        if is_new and not any(path.iterdir()):
            path.rmdir()
        raise

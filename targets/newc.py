"""A Linux initramfs as bytes: the "newc" form of cpio, which the kernel unpacks (its buffer-format.rst).

Written here and not by cpio(1), because a device node in an archive needs no privilege while one on disk does.
Archives may follow one another in one file; a later entry replaces an earlier one of the same name.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """A file, folder, link or device: `mode` with its type bits, `device` (major, minor), `content` a link's target."""

    name: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def folder(name: str, mode: int = 0o755) -> Entry:
    """A folder of root's."""
    return Entry(name, stat.S_IFDIR | mode)


def file(name: str, content: bytes, mode: int = 0o644) -> Entry:
    """A regular file of root's."""
    return Entry(name, stat.S_IFREG | mode, content)


def tree(root: Path, under: str = "") -> Iterator[Entry]:
    """Everything below `root` but device nodes, folders before what is in them, by name; owned by root."""
    for path in sorted(root.rglob("*")):
        name = under + path.relative_to(root).as_posix()
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            yield Entry(name, mode, str(path.readlink()).encode())
        elif stat.S_ISDIR(mode):
            yield Entry(name, mode)
        elif stat.S_ISREG(mode):
            yield Entry(name, mode, path.read_bytes())


def archive(entries: Iterable[Entry]) -> Iterator[bytes]:
    """The archive of `entries` in pieces, its trailer included; the same entries give the same bytes."""
    for number, entry in enumerate(entries, 1):
        yield from record(number, entry)
    yield from record(0, Entry("TRAILER!!!", 0))


def record(number: int, entry: Entry) -> Iterator[bytes]:
    """One header, name and content, each padded to four bytes; owner and time are zero."""
    name = entry.name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (number, entry.mode, 0, 0, links, 0, len(entry.content), 0, 0, *entry.device, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    yield header + bytes(-len(header) % 4)
    yield entry.content + bytes(-len(entry.content) % 4)

"""Files on their way to a board: one tar archive through the link, unpacked by the Python there, every sum checked."""

from __future__ import annotations

import hashlib
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from targets.link import Link, last, run
from targets.measure import RunnerError

# The slowest connection that a push is given time for.
SLOWEST_BYTES_PER_S = 50_000

# Runs there, in the temporary folder: unpacks the archive on stdin and the wheels in it, and says what arrived.
# argv are the names of the files.
UNPACK = """
import hashlib, json, os, sys, tarfile, zipfile
def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
try:
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
        archive.extractall(".")
    sums = {name: sha256(name) for name in sys.argv[1:]}
    for name in sums:
        if name.endswith(".whl"):
            with zipfile.ZipFile(name) as wheel:
                wheel.extractall("packages")
            os.remove(name)
    print(json.dumps({"sums": sums}))
except OSError as error:
    print(json.dumps({"error": "cannot write there: %s" % (error.strerror or error)}))
except (tarfile.TarError, zipfile.BadZipFile) as error:
    print(json.dumps({"error": "the archive arrived damaged: %s" % error}))
"""


@dataclass(frozen=True)
class Arrived:
    """What UNPACK says: the sum of each file by its name there, or why there is none."""

    sums: dict[str, str] = field(default_factory=dict)
    error: str = ""


def push(link: Link, files: Mapping[str, Path], *, free_bytes: int, timeout_s: float) -> None:
    """Put each file under its name in the folder there, wheels unpacked in `packages`; RunnerError if not all arrive.

    free_bytes  of the disk there
    timeout_s   beyond the time for the bytes themselves
    """
    host = link.address.host
    taken_bytes = sum(map(unpacked_bytes, files.values()))
    if taken_bytes > free_bytes:
        need = f"{taken_bytes / 1e6:.1f} MB are needed in {link.folder}, {free_bytes / 1e6:.1f} MB are free"
        raise RunnerError(f"{host}: {need}. Free some, or set TMPDIR there to a larger disk")
    with tempfile.TemporaryFile() as archive:
        with tarfile.open(fileobj=archive, mode="w", dereference=True) as tar:
            for name, path in files.items():
                tar.add(path, name, recursive=False)
        patience_s = timeout_s + archive.tell() / SLOWEST_BYTES_PER_S
        archive.seek(0)
        words = [link.address.python, "-c", UNPACK, *files]
        said = run(link, words, doing="the transfer", timeout_s=patience_s, feed=archive)
    try:
        told = msgspec.json.decode(said.stdout.rstrip().rpartition(b"\n")[2], type=Arrived)
    except msgspec.DecodeError as error:
        raise RunnerError(f"{host}: the transfer failed (exit {said.status}){last(said.stderr)}") from error
    if told.error:
        raise RunnerError(f"{host}: {told.error}. Look after the disk of {link.folder}, then try again")
    for name, path in files.items():
        if told.sums.get(name) != sha256(path):
            raise RunnerError(f"{host}: {Path(name).name} arrived damaged. Try again, then mistrust its disk")


def unpacked_bytes(path: Path) -> int:
    """What a file takes there at most: a wheel lies there packed and unpacked for a moment."""
    size = path.stat().st_size
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            size += sum(member.file_size for member in wheel.infolist())
    return size


def sha256(path: Path) -> str:
    """The sum of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parts(model: Path) -> dict[str, Path]:
    """The files of a model by the names under which it looks for them: itself, and an ONNX file's external data.

    The names stand in the file as StringStringEntryProto {1: "location", 2: name}; those that lead out of the model's
    folder are left out, and the runtime there will say what it misses. Raises RunnerError if there is no such model.
    """
    if not model.is_file():
        raise RunnerError(f"{model}: no such file")
    found = {model.name: model}
    if model.suffix.lower() != ".onnx":
        return found
    content = model.read_bytes()
    for entry in re.finditer(rb"\x0a\x08location\x12([\x80-\xff]?)([\x01-\x7f])", content):
        length = (entry[1][0] & 127 | entry[2][0] << 7) if entry[1] else entry[2][0]
        name = content[entry.end() : entry.end() + length].decode(errors="replace")
        path = (model.parent / name).resolve()
        if path.is_relative_to(model.parent.resolve()) and path.is_file():
            found[name] = path
    return found

"""Arrays from an .npz that nobody vouches for: what its members declare is known before memory is given to it."""

from __future__ import annotations

import io
import math
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from toolchain.errors import BadInput
from toolchain.validate import quantity, read_bytes

LARGEST = 1 << 33  # bytes that an .npz may expand to
DAMAGED = (  # what numpy, zipfile and json raise over a damaged file
    ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, EOFError, NotImplementedError,
    SyntaxError, RuntimeError, SystemError, tokenize.TokenError, zipfile.BadZipFile, zlib.error, struct.error,
)  # fmt: skip
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_arrays(path: Path, kind: str, way_out: str) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz by name.

    kind  what is needed, "an .npz file"

    Raises BadInput for what is none, holds pickles, declares other sizes than it has, or expands beyond LARGEST.
    """
    raw = read_bytes(path, kind)
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            size = sum(i.file_size for i in archive.infolist())
            if size > LARGEST:
                raise BadInput(f"expands to {quantity(size)}, limit {quantity(LARGEST)}", str(path))
            for member in archive.infolist():
                with archive.open(member) as file:
                    check_header(file, member, path)
        with np.load(io.BytesIO(raw), allow_pickle=False) as found:
            arrays = {name: found[name] for name in found.files}
        for texts in (a for a in arrays.values() if a.dtype.kind == "U"):
            texts.tolist()  # numpy looks at their characters only then
        return arrays
    except DAMAGED as error:
        raise BadInput(f"is not {kind}, or damaged", str(path), way_out) from error


def check_header(file: IO[bytes], member: zipfile.ZipInfo, path: Path) -> None:
    """Raise BadInput for pickles, and for an array that is not the size of its member; numpy's errors for the rest."""
    version = npy.read_magic(file)
    shape, _, dtype = HEADERS.get(version, npy.read_array_header_2_0)(file)
    if dtype.hasobject:
        raise BadInput("has pickled objects; pickles are off", str(path), "Save plain arrays with numpy.savez")
    declared, stored = math.prod(shape) * dtype.itemsize, member.file_size - file.tell()
    if declared != stored or any(d < 0 for d in shape):
        told = f"declares {quantity(declared)} but stores {quantity(stored)}"
        raise BadInput(told, f"{path}: array '{member.filename.removesuffix('.npy')}'")

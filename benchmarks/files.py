"""A folder outside the repository for files that are made once."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def cache() -> Path:
    """$JETTISON_BENCHMARK_CACHE, else a folder among the temporary files; delete it to have everything made again."""
    folder = Path(os.environ.get("JETTISON_BENCHMARK_CACHE") or Path(tempfile.gettempdir()) / "jettison-benchmarks")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def cached(name: str, write: Callable[[Path], object]) -> Path:
    """The file of this name in the cache, written by `write` if it is not there yet, whole or not at all."""
    path = cache() / name
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            write(Path(folder) / name)
            os.replace(Path(folder) / name, path)
    return path

"""What a board needs to run models, and the wheels that bring it there when the board lacks it.

The wheels come from the package index of the host, for the processor, C library and Python that the board names. They
are unpacked in the temporary folder there: nothing is installed, nobody needs to be root, the board needs no network.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from targets.measure import RunnerError

OLDEST_PYTHON = (3, 9)

# runtime -> {module that must be there: what the index calls it}. Their other dependencies are not needed to infer.
NEEDED: dict[str, dict[str, str]] = {
    "ort": {"numpy": "numpy", "onnxruntime": "onnxruntime"},
    "litert": {"numpy": "numpy", "ai_edge_litert": "ai-edge-litert"},
    "tflite": {"numpy": "numpy<2", "tflite_runtime": "tflite-runtime"},
}

# Runs there, on any Python since 2.7, in the temporary folder: argv are modules to look for.
PROBE = """
import json, os, platform, sys
try:
    libc = os.confstr("CS_GNU_LIBC_VERSION")
except (AttributeError, OSError, ValueError):
    libc = None
found = []
if sys.version_info >= (3, 9):
    import importlib.util
    found = [name for name in sys.argv[1:] if importlib.util.find_spec(name) is not None]
disk = os.statvfs(".")
print(json.dumps({
    "machine": platform.machine(), "bits": 64 if sys.maxsize > 2**32 else 32, "libc": libc,
    "python": sys.version_info[:2], "found": found, "free_bytes": disk.f_bavail * disk.f_frsize,
}))
"""


@dataclass(frozen=True)
class There:
    """What PROBE tells about a board: `libc` such as "glibc 2.31", None where it is no glibc."""

    machine: str
    bits: int
    libc: str | None
    python: tuple[int, int]
    found: tuple[str, ...]
    free_bytes: int

    def __str__(self) -> str:
        major, minor = self.python
        return f"{self.architecture}, {self.libc or 'no glibc'}, Python {major}.{minor}"

    @property
    def architecture(self) -> str:
        """The processor as wheels name it: that of Python, which may be a 32-bit one on a 64-bit kernel."""
        narrow = {"aarch64": "armv7l", "armv8l": "armv7l", "x86_64": "i686"}
        return narrow.get(self.machine, self.machine) if self.bits == 32 else self.machine


def platforms(there: There) -> list[str]:
    """The platform tags of wheels that run there, newest first: PEP 600 for glibc, PEP 656 for musl."""
    glibc = re.fullmatch(r"glibc 2\.(\d+)", there.libc or "")
    if glibc is None:
        return [f"musllinux_1_{minor}_{there.architecture}" for minor in (2, 1)]
    return [f"manylinux_2_{minor}_{there.architecture}" for minor in range(int(glibc[1]), 16, -1)] + [
        f"manylinux2014_{there.architecture}"
    ]


def fetched(there: There, packages: list[str], folder: Path) -> list[Path]:
    """The wheels of `packages` for a board, in `folder`. Raises RunnerError if there are none or no index answers."""
    words = ["download", "--quiet", "--disable-pip-version-check", "--no-input", "--retries", "1", "--timeout", "20"]
    words += ["--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    words += ["--implementation", "cp", "--python-version", "{}.{}".format(*there.python)]
    words += [word for tag in platforms(there) for word in ("--platform", tag)]
    done = subprocess.run([sys.executable, "-m", "pip", *words, *packages], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return sorted(folder.glob("*.whl"))
    way_out = "Install it there, or name a Python there that has it: ssh://host/path/to/python"
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
    absent = re.search(r"No matching distribution found for ([\w.<-]+)", done.stderr)
    unreachable = re.search("NewConnectionError|ConnectTimeout|ProxyError|SSLError|connection broken", done.stderr)
    if absent is not None and unreachable is None:
        raise RunnerError(f"{absent[1]} is missing and has no wheel for {there}. {way_out}")
    said = (errors or done.stderr.splitlines() or [f"exit {done.returncode}"])[-1].removeprefix("ERROR: ")[:200]
    cause = "no package index can be reached from here" if unreachable else f"pip cannot fetch it: {said}"
    raise RunnerError(f"{', '.join(packages)} missing, and {cause}. {way_out}")

"""Runs emitted files and compares them with onnxruntime on the model that they were emitted from."""

from __future__ import annotations

import mmap
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import toolchain
from targets.locks import scratch
from targets.memory import bound, memory_bytes
from toolchain.emit.micro import arena
from toolchain.emit.tflite import batch_axis, to_tflite
from toolchain.errors import RunnerFailed
from toolchain.model import Model
from toolchain.session import run, session

Arrays = Mapping[str, NDArray[Any]]
TOLERANCE = 1e-5  # relative: other kernels sum in another order
CHILD = Path(__file__).with_name("child.py")
BATCH = 32
STARVED = re.compile(r"MemoryError|bad_alloc|Cannot allocate memory")  # what numpy, C++ and the system say


@dataclass(frozen=True)
class EmissionCheck:
    """How far an emitted file is from its model.

    max_abs  largest difference of any output; max_rel the same over the largest value of that output
    """

    path: str
    format: str
    bytes: int
    samples: int
    max_abs: float
    max_rel: float
    passed: bool
    arena_bytes: int | None = None  # of TFLite Micro; None where that is not known


def check(
    model: Model, path: Path, x: NDArray[Any] | Arrays, threads: int = 1, tolerance: float = TOLERANCE
) -> EmissionCheck:
    """Compare a TFLite or ONNX file with the model in memory.

    x  [n, ...] for the only input, or an array for each input by name
    """
    feeds = x if isinstance(x, Mapping) else {next(iter(model.inputs)): x}
    kind = path.suffix.removeprefix(".")
    wanted, got = onnx_outputs(model, feeds, threads), RUNNERS[kind](path, feeds, threads)
    gaps = [float(np.abs(got[k].astype(np.float64) - y).max(initial=0)) for k, y in wanted.items()]
    sizes = [float(np.abs(y).max(initial=0)) for y in wanted.values()]
    relative = max(g / s if s else g for g, s in zip(gaps, sizes, strict=True))
    samples, size = len(next(iter(feeds.values()))), path.stat().st_size
    is_close = bool(relative <= tolerance)  # False for NaN
    arena_bytes = planned(path) if kind == "tflite" else None
    return EmissionCheck(str(path), kind, size, samples, max(gaps), relative, is_close, arena_bytes)


def planned(path: Path) -> int | None:
    """Bytes of the arena that TFLite Micro needs for a file, None where a kernel of it is not known."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found = arena(data)
    return None if found.unknown else found.head_bytes


def write_and_check_tflite(model: Model, path: Path, x: NDArray[Any] | Arrays, threads: int = 1) -> EmissionCheck:
    """Emit a TFLite file, replacing one that is there, and compare it with the model."""
    to_tflite(model).write(path)
    return check(model, path, x, threads)


def onnx_outputs(model: Model, feeds: Arrays, threads: int = 1) -> dict[str, NDArray[Any]]:
    """What onnxruntime computes; a fixed batch is filled up from the first samples."""
    runner = session(model.ir, threads)
    samples = len(next(iter(feeds.values())))
    step = model.batch if isinstance(model.batch, int) else min(samples, BATCH)
    parts: list[list[NDArray[Any]]] = []
    for i in range(0, samples, step):
        rows = range(i, i + step if isinstance(model.batch, int) else min(i + step, samples))
        parts.append(run(runner, {k: x.take(rows, axis=0, mode="wrap") for k, x in feeds.items()}))
    ends = [(i, str(v.name), batch_axis(v)) for i, v in enumerate(model.graph.outputs)]
    joined = {name: np.concatenate([p[i] for p in parts], axis) for i, name, axis in ends}
    return {k: y if model.batch == "free" else y[:samples] for k, y in joined.items()}


def onnx_file_outputs(path: Path, feeds: Arrays, threads: int = 1) -> dict[str, NDArray[Any]]:
    """What onnxruntime computes from an ONNX file."""
    from toolchain.model import load

    return onnx_outputs(load(path), feeds, threads)


def lite_outputs(
    path: Path, feeds: Arrays, threads: int = 1, timeout: float = 600, resolver: str = "BUILTIN"
) -> dict[str, NDArray[Any]]:
    """What LiteRT computes in a child process: outputs by name, in ONNX's axes; any number of samples.

    resolver  BUILTIN runs XNNPACK, BUILTIN_REF the reference kernels

    Raises RunnerFailed if the runtime refuses the file, crashes or does not come back.
    """
    with scratch() as folder:
        given, found = folder / "feeds.npz", folder / "outputs.npz"
        arrays: dict[str, Any] = {f"x.{k}": v for k, v in feeds.items()}
        np.savez(given, **arrays)
        command = [sys.executable, "-P", str(CHILD), str(path), str(given), str(found), str(threads), resolver]
        finished(command, "the LiteRT runtime", path, timeout)
        with np.load(found) as stored:
            return {k.removeprefix("y."): stored[k] for k in stored.files}


def finished(command: Sequence[str], who: str, path: Path, timeout: float) -> str:
    """What a child, which sees this toolchain, said on stderr; raises RunnerFailed unless it came to its end."""
    places = [str(Path(toolchain.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    sees = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, places))}
    sees |= {"PYTHONUTF8": "1"}  # LiteRT 2.1 takes no path that the locale cannot spell
    most = memory_bytes()
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace", env=sees
    ) as process:
        bound(process.pid, most)
        try:
            _, said = process.communicate(timeout=timeout)
        except BaseException as error:
            process.kill()
            if isinstance(error, subprocess.TimeoutExpired):
                raise RunnerFailed(f"{who} did not finish in {timeout:.0f} s", str(path)) from error
            raise
    if process.returncode:
        raise failure(process.returncode, said, who, path, most)
    return said


def failure(status: int, said: str, who: str, path: Path, most: int) -> RunnerFailed:
    """Why a child with this exit status gave no result.

    most  bytes that it was allowed
    """
    if STARVED.search(said):
        told = f"{who} needs more memory than there is ({most / 2**20:,.0f} MiB)"
        return RunnerFailed(told, str(path), "Give it fewer samples, or a computer with more")
    if status < 0:
        told = f"{who} crashed (signal {-status}, {signal.strsignal(-status)}) loading {path.name}"
        return RunnerFailed(told, str(path), "The file is damaged; emit it again")
    lines = [line for line in said.splitlines() if line.strip()] or ["no message"]
    first = next((line for line in lines if not line.startswith(("Traceback", " ", "INFO", "WARNING"))), lines[-1])
    return RunnerFailed(f"{who} refuses the file: {first}", str(path))


RUNNERS = {"tflite": lite_outputs, "onnx": onnx_file_outputs}

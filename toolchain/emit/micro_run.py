"""Runs emitted files on TensorFlow Lite Micro itself."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from targets.locks import scratch
from toolchain.emit.child import decoded, encoded, joined, permutations
from toolchain.emit.contents import contents
from toolchain.emit.run import finished
from toolchain.errors import RunnerFailed
from toolchain.validate import read_bytes

CHILD = Path(__file__).with_name("micro_child.py")
TYPES = {"FLOAT32": np.float32, "INT32": np.int32, "BOOL": np.bool_, "INT8": np.int8, "UINT8": np.uint8}
HEAD = re.compile(r"Arena allocation head (\d+) bytes")
SPARE = 64 << 20  # bytes beside what the tensors take: only the pages that are touched cost memory


@dataclass(frozen=True)
class MicroRun:
    """What TFLite Micro computed, by name and in ONNX's axes, and the bytes of its arena's head."""

    outputs: dict[str, NDArray[Any]]
    head_bytes: int


def micro_run(path: Path, feeds: Mapping[str, NDArray[Any]], timeout: float = 600) -> MicroRun:
    """Run any number of samples in a child process, file batch by file batch.

    Raises RunnerFailed if the package is missing, or the runtime refuses the file, crashes or does not come back.
    """
    if find_spec("tflite_micro") is None:
        raise RunnerFailed("TFLite Micro is not installed", way_out="pip install --pre tflite-micro")
    file, turned = contents(read_bytes(path, "a model"), str(path)), permutations(str(path))
    samples = min(len(x) for x in feeds.values())
    batch = min(file.tensors[t].shape[0] for t in file.inputs.values())
    given: dict[str, Any] = {}
    for i, (name, t) in enumerate(file.inputs.items()):
        x = np.transpose(feeds[name], turned["inputs"].get(name) or range(np.ndim(feeds[name])))
        rows = x.take(range(-(-samples // batch) * batch), axis=0, mode="wrap")
        given[str(i)] = encoded(rows, detail(file.tensors[t])).reshape(-1, *file.tensors[t].shape)
    room = SPARE + 3 * sum(t.bytes for t in file.tensors)
    found, told = in_child(path, given, len(file.outputs), room, timeout)
    share, outputs = samples / (len(given["0"]) * batch), {}
    for i, (name, t) in enumerate(file.outputs.items()):
        outputs[name] = joined(name, list(decoded(found[str(i)], detail(file.tensors[t]))), turned, share)
    return MicroRun(outputs, told)


def detail(tensor: Any) -> dict[str, Any]:
    """A tensor as LiteRT's interpreter describes it."""
    return {"dtype": TYPES[tensor.type], "quantization": (tensor.scale, tensor.zero)}


def in_child(
    path: Path, given: dict[str, Any], outputs: int, room: int, timeout: float
) -> tuple[dict[str, NDArray[Any]], int]:
    """The arrays that the child wrote, and the bytes of the head that its allocator reported."""
    with scratch() as folder:
        feeds, found = folder / "feeds.npz", folder / "outputs.npz"
        np.savez(feeds, **given)
        command = [sys.executable, "-P", *map(str, (CHILD, path, feeds, found, outputs, room))]
        head = HEAD.search(finished(command, "the TFLite Micro runtime", path, timeout))
        if head is None:
            raise RunnerFailed("the TFLite Micro runtime tells nothing of its arena", str(path))
        with np.load(found) as stored:
            return {k: stored[k] for k in stored.files}, int(head.group(1))

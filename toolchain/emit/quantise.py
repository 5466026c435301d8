"""Quantised files of a model: how each is made, and what is known of it afterwards.

The quantiser works in a child process (`quantising`): a crash or a hang there is one line here, and no file.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from targets.locks import scratch
from toolchain.emit.micro import require_micro
from toolchain.emit.run import finished, lite_outputs
from toolchain.emit.tflite import to_tflite
from toolchain.errors import UsageError
from toolchain.model import Model, save

Arrays = Mapping[str, NDArray[Any]]
CHILD = Path(__file__).with_name("quantising.py")
TIMEOUT = 7200.0  # seconds


@dataclass(frozen=True)
class Format:
    """A kind of quantised file.

    suffix         what its name has between the stem and the ending of its source
    source         the float file that it is made of
    is_calibrated  whether samples decide the ranges of its activations, so that it cannot do without
    needs          package that makes it, of the extra int8
    """

    suffix: str
    source: str
    is_calibrated: bool
    needs: str
    about: str

    def file(self, stem: str) -> str:
        """Name of the file."""
        return f"{stem}-{self.suffix}.{self.source}"


QUANTISED = {
    "tflite-int8": Format(
        "int8", "tflite", True, "ai_edge_quantizer",
        "full integer: int8 activations, inputs and outputs too, int8 weights per channel, int32 biases",
    ),
    "tflite-int8-weights": Format(
        "int8-weights", "tflite", False, "ai_edge_quantizer",
        "dynamic range: int8 weights per channel, float32 in and out, activations become int8 as an op runs",
    ),
    "tflite-float16": Format("float16", "tflite", False, "", "float16 weights, widened to float32 when they are read"),
    "onnx-int8": Format(
        "int8", "onnx", True, "", "QuantizeLinear and DequantizeLinear around each op, int8 weights per channel"
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Quantised:
    """A quantised file in memory.

    float_ops  ops of an int8 file that still read or write floats, as CODE 'name of the result'
    layers     {tensor, relative_error} of each tensor that the float file has too, on held-out samples, largest first
    saturated  {tensor, share} of the values of held-out samples beyond what the tensor can hold, largest first
    """

    form: str
    data: bytes
    seconds: float
    float_ops: tuple[str, ...]
    layers: tuple[dict[str, Any], ...]
    saturated: tuple[dict[str, Any], ...]


def check_installed(form: str) -> None:
    """Raise UsageError if a format needs a package that is missing."""
    package = QUANTISED[form].needs
    if package and find_spec(package) is None:
        raise UsageError(f"{form} needs {package.replace('_', '-')}", way_out="Run pip install 'jettison[int8]'")


def quantise(
    model: Model,
    form: str,
    calibration: Arrays | None,
    held_out: Arrays,
    metadata: dict[str, str] | None = None,
    threads: int = 1,
    timeout: float = TIMEOUT,
    profile: str = "lite",
) -> Quantised:
    """The model as a quantised file.

    calibration  real samples {input: [n, *s]} that decide ranges and rounding, or None where a format can do without
    held_out     samples that its tensors are compared on
    profile      micro: with TFLite Micro's kernels alone

    Raises UsageError for a missing package, Unsupported for an op without TFLite form, RunnerFailed for the quantiser.
    """
    check_installed(form)
    kind = QUANTISED[form]
    begun = time.perf_counter()
    with scratch() as folder:
        if kind.source == "tflite":
            to_tflite(model, metadata, profile=profile).write(folder / "float.tflite")
        else:
            save(model, folder / "float.onnx")
        for part, arrays in (("calibration", calibration or {}), ("held_out", held_out)):
            np.savez(folder / f"{part}.npz", **{f"x.{k}": v for k, v in arrays.items()})  # pyright: ignore[reportArgumentType]
        (folder / "asked.json").write_text(json.dumps({"form": form, "threads": threads}))
        command = [sys.executable, "-P", "-W", "ignore", str(CHILD), str(folder)]
        finished(command, f"the quantiser of {form}", Path(kind.file("model")), timeout)
        found = json.loads((folder / "found.json").read_text())
        data = (folder / f"quantised.{kind.source}").read_bytes()
    if profile == "micro" and kind.source == "tflite":
        require_micro(data, model.graph)
    told = {k: tuple(found[k]) for k in ("float_ops", "layers", "saturated")}
    return Quantised(form, data, time.perf_counter() - begun, **told)


def outputs(path: Path, feeds: Arrays, threads: int = 1) -> dict[str, NDArray[Any]]:
    """What a quantised file computes on its runtime: outputs by name, in ONNX's axes; any number of samples."""
    if path.suffix == ".tflite":
        return lite_outputs(path, feeds, threads, TIMEOUT)
    from toolchain.emit.qdq import file_outputs

    return file_outputs(path, feeds, threads)

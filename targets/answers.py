"""Whether two computers answer alike: the same file, the same inputs, the outputs of both, their largest difference."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from targets.measure import AGENT, agent_words, answer, child

if TYPE_CHECKING:
    import numpy

# What answers here for a runtime there: the old TFLite runtime wants an environment of its own, and LiteRT succeeds it.
REFERENCES = {"ort": "ort", "litert": "litert", "tflite": "litert"}


@dataclass(frozen=True)
class Reference:
    """This computer's first answer to a model: the agent's hash of it, and the file with its outputs."""

    output_hash: str
    outputs: Path


def reference(
    model: Path, runtime: str, *, threads: int, inputs: Path | None, outputs: Path, timeout_s: float
) -> Reference:
    """What this computer answers, saved in `outputs`; inputs None: the agent's noise, which is the same everywhere.

    Raises RunnerError.
    """
    here = REFERENCES[runtime]
    given = inputs and inputs.absolute()
    words = agent_words(model.absolute(), here, runs=1, warmup=0, threads=threads, inputs=given)
    command = [sys.executable, str(AGENT), *words, "--outputs", str(outputs)]
    record = answer(*child(command, threads, here, timeout_s), here, model.name)
    return Reference(record["output_hash"], outputs)


def load(path: Path) -> list[numpy.ndarray]:
    """The outputs that an agent saved: .npy files one behind the other."""
    import numpy

    size, found = path.stat().st_size, []
    with path.open("rb") as file:
        while file.tell() < size:
            found.append(numpy.load(file, allow_pickle=False))
    return found


def difference(expected: numpy.ndarray, found: numpy.ndarray) -> float:
    """The largest |found − expected| relative to the largest |expected|; inf where they cannot be compared.

    Where both are NaN, or infinite alike, there is no difference.
    """
    import numpy

    if expected.shape != found.shape or expected.dtype != found.dtype:
        return math.inf
    if not expected.size:
        return 0.0
    wide, other = expected.astype(numpy.float64), found.astype(numpy.float64)
    same = (wide == other) | (numpy.isnan(wide) & numpy.isnan(other))
    with numpy.errstate(invalid="ignore"):
        distance = numpy.where(same, 0.0, numpy.abs(other - wide))
    worst = float(numpy.max(numpy.where(numpy.isnan(distance), math.inf, distance)))
    return worst / scale(expected)


def scale(expected: numpy.ndarray) -> float:
    """The largest finite |value| of an output; 1 if there is none but zeros."""
    import numpy

    wide = numpy.abs(expected.astype(numpy.float64))
    return float(numpy.max(wide, where=numpy.isfinite(wide), initial=0.0)) or 1.0


def allowed(expected: numpy.ndarray, tolerance: float) -> float:
    """How large `difference` may be: 8-bit outputs may be a step off, since processors round differently."""
    is_quantised = expected.dtype.kind in "iu" and expected.dtype.itemsize == 1
    return max(tolerance, 1 / scale(expected)) if is_quantised else tolerance

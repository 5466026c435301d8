"""One way out of a file's failures: a command in the user's own paths that would get there."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path

from toolchain.config import ConfigFile
from toolchain.gate.limits import RELATIVE
from toolchain.gate.verdicts import Verdict

MEASURED = "latency@local<={:.4g}ms"
UNTOLD = {  # words of a command that the configuration does not fill in, and what they stand for
    "MODEL.onnx": "MODEL.onnx is the network that the file was made of; [model] path names it",
    "DATA": "DATA are labelled samples; [data] calibration names them",
}


def way_out(failed: Sequence[Verdict], file: ConfigFile) -> str:
    """One command for all failures of one file: a cut within every bound, or training where only accuracy is short."""
    limit = failed[0].limit
    terms = [term(v) for v in failed if v.limit.quantity != "accuracy"]
    bounds = {form: min(bound for other, bound in terms if other == form) for form, _ in terms}
    budget = ",".join(form.format(bound) for form, bound in bounds.items())
    words = cut(limit.path, budget, MEASURED in bounds, file) if terms else training(limit.path, file)
    growth = next((v.limit.baseline for v in failed if v.limit.kind in RELATIVE), "")
    asked = "".join(f"; {told}" for word, told in UNTOLD.items() if word in words)
    return f"Run: jettison {shlex.join(words)}{asked}{accepted(growth)}"


def term(verdict: Verdict) -> tuple[str, float]:
    """A term of a budget that would keep a limit: what it is made of, and its number.

    Instructions, and time elsewhere than here, are no terms: they follow the multiply-accumulates.
    """
    limit = verdict.limit
    assert verdict.figure is not None
    if limit.quantity == "latency" and limit.target == "local" and not is_lite(limit.path):
        return MEASURED, verdict.bound / 1e6
    if limit.quantity in ("latency", "instructions"):
        return "macs<={:.0f}%", max(math.floor(100 * verdict.bound / verdict.figure.value), 1)
    return f"{limit.quantity}<={{:.0f}}", math.floor(verdict.bound)


def is_lite(path: Path) -> bool:
    """Whether a file is one of TFLite."""
    return path.suffix.lower() == ".tflite"


def source(path: Path, file: ConfigFile) -> Path:
    """The ONNX network behind a file."""
    named = file.config.model.path
    return path if not is_lite(path) else Path("MODEL.onnx") if named is None else file.beside(named)


def cut(path: Path, budget: str, is_measured: bool, file: ConfigFile) -> list[str]:
    """jettison prune, which needs no data; compress where there are some, where time counts or a TFLite file is due."""
    dense, data = source(path, file), file.config.data.calibration
    if data is None and not is_measured and not is_lite(path):
        return ["prune", str(dense), "--budget", budget, "-o", f"{dense.stem}-smaller.onnx"]
    ranked = ["--criterion", "magnitude"] if data is None else ["--data", str(file.beside(data))]
    to = ["--to", "onnx,tflite"] if is_lite(path) else []
    return ["compress", str(dense), *ranked, "--budget", budget, *to, "-o", "smaller"]


def training(path: Path, file: ConfigFile) -> list[str]:
    """jettison retrain; a TFLite file is then emitted again."""
    data = file.config.data.calibration
    return ["retrain", str(source(path, file)), "--data", "DATA" if data is None else str(file.beside(data))]


def accepted(baseline: str) -> str:
    """How to accept growth, where that is the limit."""
    path = baseline.split(":", 2)[2] if baseline.startswith("git:") else baseline
    return f"; or accept it: jettison check --save-baseline {shlex.quote(path)} --force" if path else ""

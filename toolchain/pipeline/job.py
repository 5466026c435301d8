"""What the main job was asked for, where its results go, and what is said while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolchain.compress.attribution import Workers
from toolchain.compress.budget import Floor, parse_budget
from toolchain.compress.criteria import CRITERIA
from toolchain.data import Samples
from toolchain.emit.quantise import QUANTISED
from toolchain.errors import UsageError
from toolchain.files import check_new

SCHEDULES = ("one-shot", "iterative")
FLOATS = ("onnx", "tflite")
FORMATS = (*FLOATS, *QUANTISED)


@dataclass(frozen=True)
class Job:
    """What `jettison compress` was asked for."""

    model: Path
    out: Path
    budget: str
    calibration: Samples | None
    held_out: tuple[Samples, ...] = ()  # looked at for the report; the first one judges where accuracy is a limit
    criterion: str = "ig"
    align: str = "auto"
    keep: tuple[str, ...] = ()
    floors: tuple[Floor, ...] = ()
    schedule: str = "one-shot"
    rounds: int = 3
    min_accuracy: float | None = None  # in 0..1
    approximate: bool = False
    layers: str = "*"
    steps: int = 16
    samples: int = 256
    target: str | None = None
    recover: bool = True
    retrain: int = 0  # epochs
    teacher: bool = False
    formats: tuple[str, ...] = FLOATS
    max_drop: float | None = None  # points of accuracy that a quantised file may lose
    opset: int | None = None  # of the ONNX file; None for its own
    profile: str = "lite"  # micro: TFLite files with no other kernels than TFLite Micro's
    runs: int = 100
    warmup: int = 10
    seed: int = 0
    threads: int = 1
    max_memory: int | None = None
    workers: Workers = field(default_factory=Workers)
    sampled: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    force: bool = False
    arguments: tuple[str, ...] = ()

    @property
    def needs_samples(self) -> bool:
        """Whether its criterion looks at samples."""
        return self.criterion == "auto" or CRITERIA.get(self.criterion, (None, False))[1]

    @property
    def sets(self) -> tuple[Samples, ...]:
        """Everything that the result is looked at on."""
        return tuple(s for s in (self.calibration, *self.held_out) if s is not None)


@dataclass
class Log:
    """Says each stage when it is done, and remembers it for the report."""

    say: Callable[[str, str, float], None]
    stages: list[dict[str, Any]] = field(default_factory=list)
    begun: float = field(default_factory=time.perf_counter)

    def done(self, name: str, text: str) -> None:
        """A stage ended with this result."""
        seconds = time.perf_counter() - self.begun
        self.stages.append({"name": name, "text": text, "seconds": round(seconds, 3)})
        self.say(name, text, seconds)
        self.begun = time.perf_counter()


def outputs_of(job: Job) -> dict[str, Path]:
    """Where the results go; refuses before any work what could not be written after it."""
    check_job(job)
    job.out.mkdir(parents=True, exist_ok=True)
    names = {"onnx": "model.onnx", "tflite": "model.tflite", "ranks": "ranks.npz", "plan": "plan.json"}
    names |= {"report.json": "report.json", "report.html": "report.html"}
    names |= {f: QUANTISED[f].file("model") for f in job.formats if f in QUANTISED}
    paths = {k: job.out / n for k, n in names.items()}
    for path in paths.values():
        if path.resolve() == job.model.resolve():
            raise UsageError(f"{path} would replace the model itself", way_out="Give another folder with -o")
        check_new(path, job.force)
    return paths


def check_job(job: Job) -> None:
    """Formats, criterion and samples fit together; raises UsageError."""
    unknown = set(job.formats) - set(FORMATS)
    if unknown:
        raise UsageError(f"unknown format '{min(unknown)}'", way_out=f"Use {', '.join(FORMATS)}")
    if "onnx" not in job.formats:
        raise UsageError("the result is an ONNX file first", way_out="Use --to onnx,tflite or --to onnx")
    if job.criterion not in ("auto", *CRITERIA):
        raise UsageError(f"unknown criterion '{job.criterion}'", way_out=f"Use one of auto, {', '.join(CRITERIA)}")
    check_schedule(job)
    if job.needs_samples and job.calibration is None:
        raise UsageError(
            f"criterion '{job.criterion}' needs samples", way_out="Give --data, or use --criterion magnitude"
        )


def check_schedule(job: Job) -> None:
    """What rounds, retraining and limits of accuracy need is there; raises UsageError."""
    if job.schedule not in SCHEDULES:
        raise UsageError(f"unknown schedule '{job.schedule}'", way_out=f"Use one of {', '.join(SCHEDULES)}")
    needs = {"--retrain": job.retrain > 0, "--min-accuracy": job.min_accuracy is not None}
    needs["drop"] = any(t.quantity == "drop" for t in parse_budget(job.budget))
    for what in (n for n, asked in needs.items() if asked and not job.sets):
        raise UsageError(f"{what} needs samples", way_out="Give --data")
    if job.retrain and job.calibration is None:
        raise UsageError("--retrain needs samples to train on", way_out="Give --data")
    if job.retrain and not job.teacher and job.calibration is not None and job.calibration.labels is None:
        raise UsageError(
            f"'{job.calibration.name}' has no labels to retrain on", way_out="Give --teacher: the original teaches then"
        )

"""What decides the result of a command, and what an emitted file says of itself, for whoever finds it on a board."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from toolchain.compress.budget import parse_budget
from toolchain.data import PIXELS, Samples
from toolchain.model import Model
from toolchain.pipeline.job import Job
from toolchain.provenance import changed, deciding, signed, told

DECIDING = (
    "criterion", "align", "keep", "floors", "schedule", "rounds", "min_accuracy", "approximate", "layers", "steps",
    "samples", "target", "recover", "retrain", "teacher", "profile",
)  # fmt: skip


def settings(job: Job) -> dict[str, Any]:
    """What decides a job's result: budget, criterion, seed, the samples' hash, and what is not as it is by default."""
    chosen = changed(job)
    choices = {"budget": job.budget, "criterion": job.criterion} | {k: chosen[k] for k in DECIDING if k in chosen}
    if "floors" in choices:
        choices["floors"] = [dataclasses.asdict(f) for f in job.floors]
    is_judged = job.min_accuracy is not None or any(t.quantity == "drop" for t in parse_budget(job.budget))
    judge = job.held_out[0] if job.held_out and is_judged else None
    return deciding("compress", job.seed, choices, {"data": job.calibration, "validation": judge})


def metadata(model: Model, sets: Sequence[Samples], form: str = "") -> dict[str, str]:
    """Tool, source and plan; labels, one a line, and how images became the input's numbers, where samples tell.

    form           of a quantised file
    normalisation  x / scale, then (x − mean) / std for each channel
    """
    found = told(signed(model, form=form).ir.metadata_props)
    found["tool"] = f"jettison {found['tool']}"
    classes = next((s.classes for s in sets if s.classes), ())
    pixels = next((s.pixels for s in sets if s.pixels), "")
    if classes:
        found["labels"] = "\n".join(classes)
    if pixels:
        found["normalisation"] = json.dumps(dict(zip(("scale", "mean", "std"), PIXELS[pixels], strict=True)))
    return found

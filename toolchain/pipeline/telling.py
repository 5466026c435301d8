"""What an emitted file says of itself, for whoever finds it on a board."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from toolchain import __version__
from toolchain.data import PIXELS, Samples, sha256_of
from toolchain.model import Model
from toolchain.pipeline.job import Job

OWN = {"plan_sha256": "jettison.plan_sha256", "settings": "jettison.settings"}  # of a pruned network's own metadata
DECIDING = (
    "criterion", "align", "keep", "floors", "schedule", "rounds", "min_accuracy", "approximate", "layers", "steps",
    "samples", "target", "recover", "retrain", "teacher",
)  # fmt: skip


def settings(job: Job) -> dict[str, Any]:
    """What decides a job's result: budget, criterion, seed, the samples' hash, and what is not as it is by default."""
    default = {f.name: f.default for f in dataclasses.fields(job)}
    told = {k: getattr(job, k) for k in DECIDING if k == "criterion" or getattr(job, k) != default[k]}
    told |= {k: [dataclasses.asdict(f) for f in told[k]] for k in ("floors",) if k in told}
    samples = {} if job.calibration is None else {"data_sha256": sha256_of(job.calibration)}
    return {"budget": job.budget, "seed": job.seed} | told | samples


def metadata(model: Model, sets: Sequence[Samples]) -> dict[str, str]:
    """Tool, source and plan; labels, one a line, and how images became the input's numbers, where samples tell.

    normalisation  x / scale, then (x − mean) / std for each channel
    """
    told = {"tool": f"jettison {__version__}", "source_sha256": model.sha256}
    told |= {k: model.ir.metadata_props[own] for k, own in OWN.items() if own in model.ir.metadata_props}
    classes = next((s.classes for s in sets if s.classes), ())
    pixels = next((s.pixels for s in sets if s.pixels), "")
    if classes:
        told["labels"] = "\n".join(classes)
    if pixels:
        told["normalisation"] = json.dumps(dict(zip(("scale", "mean", "std"), PIXELS[pixels], strict=True)))
    return told

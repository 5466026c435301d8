"""What an emitted file says of itself, for whoever finds it on a board."""

from __future__ import annotations

import json
from collections.abc import Sequence

from toolchain import __version__
from toolchain.data import PIXELS, Samples
from toolchain.model import Model

PLAN = "jettison.plan_sha256"  # of a pruned network's own metadata


def metadata(model: Model, sets: Sequence[Samples]) -> dict[str, str]:
    """Tool, source and plan; labels, one a line, and how images became the input's numbers, where samples tell.

    normalisation  x / scale, then (x − mean) / std for each channel
    """
    told = {"tool": f"jettison {__version__}", "source_sha256": model.sha256}
    if PLAN in model.ir.metadata_props:
        told["plan_sha256"] = model.ir.metadata_props[PLAN]
    classes = next((s.classes for s in sets if s.classes), ())
    pixels = next((s.pixels for s in sets if s.pixels), "")
    if classes:
        told["labels"] = "\n".join(classes)
    if pixels:
        told["normalisation"] = json.dumps(dict(zip(("scale", "mean", "std"), PIXELS[pixels], strict=True)))
    return told

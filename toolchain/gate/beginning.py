"""A first jettison.toml for a model: its figures of today as budgets, and what else can be written as comments."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

from toolchain.errors import UsageError
from toolchain.gate.checking import COUNTED
from toolchain.gate.counts import Shapes, Subject, subject
from toolchain.gate.verdicts import spoken

TEXT = """\
# Budgets of {name}, checked by: jettison check

[model]
path = {path}{shapes}

[data]
# calibration = "calibration.npz"   # x [n, ...] and y [n]; or a folder per class, or a .csv of file,label
# validation = "validation.npz"

[prune]
# budget = "params<=30%"            # what compress and prune aim at
# align = "auto"                    # widths are multiples of 8
# keep = ["*/head/*"]               # groups to leave alone

[[budget]]                          # another file: another [[budget]] with model = "…"
{budgets}
# instructions = {{ max = "40 M", target = "qemu-a53" }}   # counted; jettison targets setup qemu-a53
# latency = {{ max = "25 ms", target = "local", stat = "p50", tolerance = "15%", repeats = 5 }}
# accuracy = {{ min = 0.85, max_drop = 0.01, data = "validation" }}
# regress = {{ flash = "2%", macs = "1%", baseline = "baseline.json" }}   # jettison check --save-baseline baseline.json
"""


def written(model: Path, out: Path, head_room: float, shapes: Shapes) -> str:
    """The file's text, with the model's path as its reader will see it.

    head_room  relative
    Raises BadInput for what is no model, UsageError for a path that TOML cannot say.
    """
    wanted = [q for q in COUNTED if q != "macs" or model.suffix.lower() != ".tflite"]
    found = subject(str(model), model, shapes, wanted)
    limits = (limit(found, quantity, head_room) for quantity in wanted)
    path = Path(os.path.relpath(model, out.parent)).as_posix()
    return TEXT.format(
        name=quoted(model.name)[1:-1], path=quoted(path), shapes=inputs(shapes), budgets="\n".join(limits)
    )


def limit(found: Subject, quantity: str, head_room: float) -> str:
    """One line of the budget: the largest whole number within the head room, and today's figure beside it."""
    value = found.figures[quantity].value
    line = f"{quantity} = {max(math.floor(value * (1 + head_room)), 1):_}"
    return f"{line:<36}# {spoken(quantity, value)} today"


def inputs(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The line of input shapes that the file leaves open."""
    told = ", ".join(f"{quoted(name)} = {list(shape)}" for name, shape in shapes.items())
    return f"\ninput = {{ {told} }}" if told else ""


def quoted(text: str) -> str:
    """A basic string of TOML: JSON's escapes serve it, and delete has to be escaped too."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{text!r} is not UTF-8, which TOML has to be", way_out="Rename it") from error
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")

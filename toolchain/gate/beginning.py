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
# Budgets of {name}: jettison check fails where one of them is broken.
# Other commands take from [model], [data] and [prune] what their arguments leave out. Paths are beside this file.

[model]
path = {path}{shapes}

[data]                              # {arrays}; or a folder per class, or a .csv of file,label
# calibration = "calibration.npz"   # to rank, recover, train and quantise on
# validation = "validation.npz"     # to judge on
# pixels = "unit"                   # images become 0..1; raw: 0..255, imagenet: by its mean and deviation

[prune]
# budget = "params<=30%"            # what compress and prune aim at; also macs, flash, ram, latency@local, drop
# align = "auto"                    # widths are multiples of 8
# keep = ["*/head/*"]               # groups to leave alone, by their names in: jettison groups

[[budget]]                          # today's figures and {head_room:g} % more; other files: more of these, with model
{budgets}
# instructions = {{ max = "40 M", target = "qemu-a53" }}   # of an inference; first: jettison targets setup qemu-a53
# latency = {{ max = "25 ms", target = "local", stat = "p50", tolerance = "15%", repeats = 5 }}   # of this computer
# accuracy = {{ min = 0.85, data = "validation" }}         # max_drop = 0.01: beside a baseline, as in regress
# regress = {{ flash = "2%", macs = "1%", baseline = "baseline.json" }}
# what regress compares with is written by: jettison check --save-baseline baseline.json
"""

WHAT = {
    "flash": "bytes on disk",
    "ram": "bytes of activations of one sample",
    "params": "parameters",
    "macs": "multiply-accumulates of one sample",
}


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
        name=quoted(model.name)[1:-1], path=quoted(path), shapes=inputs(shapes), arrays=arrays(found),
        head_room=100 * head_room, budgets="\n".join(limits),
    )  # fmt: skip


def arrays(found: Subject) -> str:
    """What a .npz file of samples holds."""
    is_lite = found.path.suffix.lower() == ".tflite"  # whose shapes have the batch in front
    shapes = {name: shape[1:] if is_lite else shape for name, shape in found.inputs.items()}
    names = ["x"] if len(shapes) == 1 else map(quoted, shapes)
    told = (
        f"{name} [{', '.join(['n', *map(str, shape)])}]" for name, shape in zip(names, shapes.values(), strict=True)
    )
    return f".npz with {', '.join(told)} and y [n]"


def limit(found: Subject, quantity: str, head_room: float) -> str:
    """One line of the budget: the largest whole number within the head room, and today's figure beside it."""
    value = found.figures[quantity].value
    line = f"{quantity} = {max(math.floor(value * (1 + head_room)), 1):_}"
    return f"{line:<36}# {WHAT[quantity]}, {spoken(quantity, value)} today"


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

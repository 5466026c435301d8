"""Figures of another day: a JSON file, or one that a commit of the repository holds."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from toolchain import __version__
from toolchain.errors import BadInput, RunnerFailed, UsageError, nearest
from toolchain.gate.counts import Subject
from toolchain.validate import read_bytes

SCHEMA = "jettison.baseline/1"
# What git may take for a revision, and never for an option. No colon: what follows it is the path.
REVISION = r"[A-Za-z0-9_@][A-Za-z0-9_@./^~{}+-]*"


class Row(msgspec.Struct, frozen=True):
    """Figures of one model."""

    sha256: str
    inputs: dict[str, tuple[int, ...]]
    figures: dict[str, float]


class Baseline(msgspec.Struct, frozen=True):
    """What --save-baseline wrote: rows by the name that the configuration gives a model."""

    schema: str
    tool: str
    models: dict[str, Row]


def baseline_of(subjects: Iterable[Subject]) -> Baseline:
    """Today's figures."""
    rows = {s.name: Row(s.sha256, dict(s.inputs), {q: f.value for q, f in sorted(s.figures.items())}) for s in subjects}
    return Baseline(SCHEMA, f"jettison {__version__}", dict(sorted(rows.items())))


def encoded(baseline: Baseline) -> str:
    """The file."""
    return msgspec.json.format(msgspec.json.encode(baseline), indent=1).decode() + "\n"


def read_baseline(source: str, folder: Path) -> Baseline:
    """The baseline in a file, or in git:REF:path of the repository around a folder; raises BadInput."""
    raw = committed(source, folder) if source.startswith("git:") else read_bytes(Path(source), "a baseline")
    way_out = "Write one with jettison check --save-baseline"
    try:
        found = msgspec.json.decode(raw, type=Baseline)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"is no baseline: {error}", source, way_out) from error
    if found.schema != SCHEMA:
        raise BadInput(f"is '{found.schema}', not '{SCHEMA}'", source, way_out)
    return found


def committed(source: str, folder: Path) -> bytes:
    """A file as a commit holds it; UsageError for another form, BadInput where git has no such file."""
    import subprocess

    _, revision, path = (*source.split(":", 2), "", "")[:3]
    if not re.fullmatch(REVISION, revision) or not path or not path.isprintable():
        raise UsageError(f"cannot read the baseline '{source}'", way_out="Write it like git:origin/main:baseline.json")
    command = ["git", "cat-file", "blob", f"{revision}:{path}"]  # `show` would run what a repository configures
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, timeout=60, check=False, env=os.environ | {"LC_ALL": "C"}
        )
    except FileNotFoundError as error:
        raise RunnerFailed("git is not installed", source, "Give the baseline as a file") from error
    except subprocess.TimeoutExpired as error:
        raise RunnerFailed("git did not finish in 60 s", source) from error
    if done.returncode:
        said = (done.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        raise BadInput(f"git has no such file: {said}", source, "Fetch it first: git fetch --depth 1 origin main")
    return done.stdout


def before(baseline: Baseline, source: str, subject: Subject, quantity: str, is_needed: bool) -> float | None:
    """A model's figure in a baseline, None where it has none; raises BadInput for that if the figure is needed.

    Raises BadInput in any case for figures of other inputs: they are of another model.
    """
    row = baseline.models.get(subject.name)
    save = "Save a new one with jettison check --save-baseline"
    if row is not None and row.inputs != subject.inputs:
        told = f"is of a '{subject.name}' with inputs {shapes(row.inputs)}, today's has {shapes(subject.inputs)}"
        raise BadInput(told, source, save)
    if row is None and is_needed:
        told = nearest(subject.name, baseline.models) if baseline.models else "It has none."
        raise BadInput(f"has no figures of '{subject.name}'", source, f"{told} {save}")
    if row is not None and is_needed and quantity not in row.figures:
        raise BadInput(f"has no {quantity} of '{subject.name}'", source, save)
    return None if row is None else row.figures.get(quantity)


def shapes(inputs: Mapping[str, tuple[int, ...]]) -> str:
    """x 3×32×32."""
    return ", ".join(f"{name} {'×'.join(map(str, shape))}" for name, shape in inputs.items())

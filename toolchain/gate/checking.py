"""The run of a gate: figures of every file that it names are taken, then every limit is judged."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from toolchain.config import Accuracy, ConfigFile
from toolchain.errors import UsageError
from toolchain.gate.baseline import Baseline, before, read_baseline
from toolchain.gate.counts import Figure, Subject, subject
from toolchain.gate.limits import RELATIVE, Limit
from toolchain.gate.verdicts import FAILED, PASSED, SKIPPED, Checked, Verdict, decided
from toolchain.gate.ways import way_out

COUNTED = ("flash", "params", "macs", "ram")


def check(file: ConfigFile, limits: Sequence[Limit], skip: Collection[str] = (), *, is_saved: bool = False) -> Checked:
    """Every limit judged.

    skip      quantities that are not looked at
    is_saved  today's figures become the baseline: nothing is compared with the old one, and all counts are taken

    Raises UsageError where everything is skipped, and what taking a figure raises: a figure that is absent is no pass.
    """
    asked = [limit for limit in limits if limit.quantity not in skip]
    if not asked:
        raise UsageError(f"everything is skipped: {', '.join(sorted(skip))}", way_out="Leave out --skip")
    sources = {limit.baseline for limit in asked if limit.baseline and not is_saved}
    baselines = {source: read_baseline(source, file.path.resolve().parent) for source in sorted(sources)}
    found = {path: taken(file, [l for l in asked if l.path == path], is_saved) for path in unique(asked)}
    verdicts = [judged(limit, found.get(limit.path), skip, baselines) for limit in limits]
    failed = {path: [v for v in verdicts if v.status == FAILED and v.limit.path == path] for path in found}
    ways = {path: way_out(short, file) for path, short in failed.items() if short}
    told = (replace(v, way_out=ways[v.limit.path]) if v.status == FAILED else v for v in verdicts)
    return Checked(file.path, tuple(told), tuple(found.values()))


def unique(limits: Sequence[Limit]) -> list[Path]:
    """The files, in order."""
    return list(dict.fromkeys(limit.path for limit in limits))


def key(limit: Limit) -> str:
    """A figure's name, also in a baseline: flash, instructions@qemu-a53, accuracy@validation."""
    of = limit.taking.data if isinstance(limit.taking, Accuracy) else limit.target
    return f"{limit.quantity}@{of}" if of else limit.quantity


def taken(file: ConfigFile, mine: Sequence[Limit], is_saved: bool) -> Subject:
    """A file with the figures that its limits ask for; with all counts that there are where they are saved."""
    path, wanted = mine[0].path, {limit.quantity for limit in mine}
    if is_saved:
        wanted |= {q for q in COUNTED if q != "macs" or path.suffix.lower() != ".tflite"}
    found = subject(mine[0].model, path, dict(file.config.model.input), wanted)
    figures: dict[str, Figure] = dict(found.figures)
    for limit in mine:
        if key(limit) not in figures:
            from toolchain.gate.taking import take

            figures[key(limit)] = take(limit, found, file)
    return replace(found, figures=figures)


def judged(
    limit: Limit,
    found: Subject | None,
    skip: Collection[str],
    baselines: Mapping[str, Baseline],
) -> Verdict:
    """One limit beside its figure."""
    if found is None or limit.quantity in skip:
        return Verdict(limit, SKIPPED, why="as --skip asks for")
    figure, past, bound = found.figures[key(limit)], None, limit.bound
    is_relative = limit.kind in RELATIVE
    if limit.baseline in baselines:
        past = before(baselines[limit.baseline], limit.baseline, found, key(limit), is_relative)
    elif is_relative:
        return Verdict(limit, SKIPPED, figure, why="today's figures become the baseline")
    if is_relative and past is not None:
        bound = past * (1 + limit.bound) if limit.kind == "growth" else past - limit.bound
    verdict = Verdict(limit, PASSED, figure, bound, past)
    return replace(verdict, status=decided(verdict))

"""Quantised files of a result: made, judged against the network in memory on samples they were not made with, written.

A file that loses more accuracy than is allowed is not written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from targets.locks import scratch
from toolchain.data import Samples
from toolchain.emit.quantise import QUANTISED, Quantised, check_installed, outputs, quantise
from toolchain.emit.run import onnx_outputs
from toolchain.errors import UsageError
from toolchain.files import write_atomic
from toolchain.model import Model
from toolchain.pipeline.job import Job
from toolchain.pipeline.telling import metadata
from toolchain.provenance import signed
from toolchain.verify import probes

CALIBRATION = 512  # samples at most, balanced over classes
SATURATED = 0.005  # share of a tensor's held-out values beyond its range that is worth a warning
Json = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """Quantised files that are asked for, by format, and what they are made and judged with.

    calibration  real samples that decide ranges and rounding, or None
    sets         what the files are judged on; the first with labels decides whether max_drop [points] holds
    """

    files: Mapping[str, Path]
    calibration: Samples | None
    sets: tuple[Samples, ...]
    max_drop: float | None
    profile: str
    seed: int
    threads: int


def asked_of(job: Job, results: Mapping[str, Path]) -> Asked:
    """The quantised files of a job; raises UsageError for what it lacks."""
    files = {f: results[f] for f in job.formats if f in QUANTISED}
    sets = job.held_out or tuple(s for s in (job.calibration,) if s is not None)
    for form in files:
        if QUANTISED[form].is_calibrated and job.calibration is None:
            way_out = "Give real samples with --calibration (compress: --data)"
            raise UsageError(f"{form} needs calibration samples", way_out=way_out)
        check_installed(form)
    if job.max_drop is not None and not files:
        raise UsageError("--max-drop is about quantised files", way_out=f"Add one of {', '.join(QUANTISED)} to --to")
    if job.max_drop is not None and all(s.labels is None for s in sets):
        raise UsageError("--max-drop needs samples with labels", way_out="Give labelled samples with --data")
    return Asked(files, job.calibration, sets, job.max_drop, job.profile, job.seed, job.threads)


def quantised(asked: Asked, model: Model) -> list[Json]:
    """The rows of the report; files that passed are written."""
    if not asked.files:
        return []
    calibration = None if asked.calibration is None else asked.calibration.balanced(CALIBRATION, asked.seed)
    sets = asked.sets or (Samples("seeded noise", probes(model), None),)
    reference = [onnx_outputs(model, s.inputs, asked.threads) for s in sets]
    known = (*asked.sets, *filter(None, [asked.calibration]))
    rows = []
    for form, path in asked.files.items():
        used = calibration if form != "tflite-float16" else None
        inputs = None if used is None else used.inputs
        told, whole = metadata(model, known, form), signed(model, form=form)
        made = quantise(whole, form, inputs, sets[0].inputs, told, asked.threads, profile=asked.profile)
        judged = judgements(made, sets, reference, asked.threads)
        row = row_of(path, made, used, judged, asked.max_drop)
        if row["passed"]:
            write_atomic(path, lambda file, data=made.data: file.write(data))
        rows.append(row)
    return rows


def judgements(
    made: Quantised, sets: Sequence[Samples], reference: Sequence[Mapping[str, Any]], threads: int
) -> list[Json]:
    """For each set: the share of samples with the float network's answer, the deviation, and accuracies."""
    with scratch() as folder:
        path = folder / f"quantised.{QUANTISED[made.form].source}"
        path.write_bytes(made.data)
        return [judgement(path, s, wanted, threads) for s, wanted in zip(sets, reference, strict=True)]


def judgement(path: Path, samples: Samples, wanted: Mapping[str, Any], threads: int) -> Json:
    """One set: what a file answers beside what its float network does."""
    found = outputs(path, samples.inputs, threads)
    y, z = (next(iter(o.values())).reshape(len(samples), -1) for o in (wanted, {k: found[k] for k in wanted}))
    answers = y.argmax(axis=1), z.argmax(axis=1)
    size = sum(float(np.square(v, dtype=np.float64).sum()) for v in wanted.values())
    off = sum(float(np.square(found[k] - v, dtype=np.float64).sum()) for k, v in wanted.items())
    shares = [None if samples.labels is None else float((a == samples.labels).mean()) for a in answers]
    return {
        "data": samples.name,
        "n": len(samples),
        "same_answer": float((answers[0] == answers[1]).mean()),
        "deviation": float(np.sqrt(off / size)) if size else 0.0,
        "before": shares[0],
        "after": shares[1],
    }


def row_of(
    path: Path, made: Quantised, calibration: Samples | None, judged: list[Json], max_drop: float | None
) -> Json:
    """The JSON of one file."""
    first = next((j for j in judged if j["before"] is not None), None)
    drop = None if first is None else 100 * (first["before"] - first["after"])
    return {
        "path": path.name,
        "format": made.form,
        "about": QUANTISED[made.form].about,
        "bytes": len(made.data),
        "seconds": round(made.seconds, 3),
        "calibration": None if calibration is None else {"data": calibration.name, "n": len(calibration)},
        "judged": judged,
        "drop_points": drop,
        "max_drop_points": max_drop,
        "passed": max_drop is None or drop is None or drop <= max_drop + 1e-9,
        "float_ops": list(made.float_ops),
        "saturated": [s for s in made.saturated if s["share"] >= SATURATED],
        "layers": list(made.layers),
    }


def check_rows(rows: Sequence[Json]) -> list[Json]:
    """The rows of files whose accuracy had a limit, as checks."""
    way_out = "Not written. Give more calibration samples, use tflite-int8-weights, or allow a larger --max-drop"
    return [
        {
            "name": f"accuracy of {r['path']}",
            "limit": f"at most {r['max_drop_points']:g} points lost",
            "value": f"{r['drop_points']:.3g} points lost",
            "passed": r["passed"],
            "message": "" if r["passed"] else way_out,
        }
        for r in rows
        if r["max_drop_points"] is not None
    ]


def describe(rows: Sequence[Json]) -> str:
    """The line of the quantise stage."""
    told = []
    for row in rows:
        first = row["judged"][0]
        parts = [f"{row['path']} {row['bytes'] / 2**20:.2f} MiB", f"same answer {100 * first['same_answer']:.4g} %"]
        if first["before"] is not None:
            parts.append(f"accuracy {100 * first['before']:.4g} → {100 * first['after']:.4g} %")
        told.append(" · ".join([*parts, *warnings(row)]))
    return " · ".join(told)


def warnings(row: Json) -> list[str]:
    """What a user has to know of a file: ops left in float, and activations that its samples did not foresee."""
    left, clipped = row["float_ops"], row["saturated"]
    more = lambda items: f" and {len(items) - 3} more" if len(items) > 3 else ""
    found = [f"left in float: {', '.join(left[:3])}{more(left)}"] if left else []
    if clipped:
        named = ", ".join(f"{c['tensor']} {100 * c['share']:.2g} %" for c in clipped[:3])
        found.append(f"values beyond the calibrated range on {row['judged'][0]['data']}: {named}{more(clipped)}")
    return found

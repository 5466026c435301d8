"""The scores of units as a value, and as the file ranks.npz."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.arrays import DAMAGED, read_arrays
from toolchain.compress.groups import Channels
from toolchain.errors import BadInput
from toolchain.files import check_new, write_atomic
from toolchain.model import Model

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Ranks:
    """Scores of the units of each group, and how they were found.

    scores      {group: [u]}, higher = keep
    dead        {group: [u]}: never active on any sample; removed first
    expected    {group: E^k_ij [k, j, u]} where attributions per class were asked for
    facts       criterion, steps, samples, completeness gap …, for the report
    """

    sha256: str
    scores: dict[str, F64]
    dead: dict[str, NDArray[np.bool_]]
    facts: dict[str, Any]
    expected: dict[str, F64] = field(default_factory=dict)


def save_ranks(ranks: Ranks, path: Path, force: bool = False) -> None:
    """Write ranks.npz: arrays by number, names and facts as JSON, so that no group's name is ever a path."""
    check_new(path, force)
    names = list(ranks.scores)
    about = {"schema": "jettison.ranks/1", "sha256": ranks.sha256, "groups": names, "facts": ranks.facts}
    arrays: dict[str, Any] = {"about": np.frombuffer(json.dumps(about, sort_keys=True).encode(), np.uint8)}
    for i, name in enumerate(names):
        arrays |= {f"scores{i}": ranks.scores[name], f"dead{i}": ranks.dead[name]}
        if name in ranks.expected:
            arrays[f"expected{i}"] = ranks.expected[name]
    write_atomic(path, lambda file: np.savez(file, **arrays))


def load_ranks(path: Path, model: Model, channels: Channels) -> Ranks:
    """Read ranks.npz; raises BadInput unless it was made for this model and fits its groups."""
    way_out = "Make one with jettison rank"
    file = read_arrays(path, "a ranks.npz file", way_out)
    try:
        about = json.loads(file["about"].tobytes())
        names, facts = [str(n) for n in about["groups"]], dict(about.get("facts", {}))
        scores = {n: file[f"scores{i}"].astype(np.float64) for i, n in enumerate(names)}
        dead = {n: file[f"dead{i}"].astype(bool) for i, n in enumerate(names)}
        expected = {n: file[f"expected{i}"] for i, n in enumerate(names) if f"expected{i}" in file}
    except DAMAGED as error:
        raise BadInput("is no ranks.npz file of jettison", str(path), way_out) from error
    if about.get("sha256") != model.sha256:
        raise BadInput(
            f"ranks were made for sha256 {str(about.get('sha256'))[:12]}…, the model is {model.sha256[:12]}…", str(path)
        )
    for g in channels.groups:
        mine = (scores[g.name], dead[g.name]) if g.name in scores else ()
        if any(a.shape != (len(g),) or not np.isfinite(a).all() for a in mine):
            raise BadInput(f"scores of group '{g.name}' do not fit its {len(g)} units", str(path))
    return Ranks(model.sha256, scores, dead, facts, expected)

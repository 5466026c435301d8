"""The chain of hashes from a network to what was made of it: who names whom, and where that is no longer true.

MODEL -> ranks.npz -> plan.json -> pruned .onnx -> emitted files; and a report names all but itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from toolchain.arrays import DAMAGED, read_arrays
from toolchain.compress.surgery import digest
from toolchain.errors import BadInput
from toolchain.model import Model, load
from toolchain.provenance import KEYS, told
from toolchain.validate import read_bytes

EMITTED = (".tflite", ".onnx")


@dataclass(frozen=True)
class Artefact:
    """A file of the chain: the hash of its bytes, what it tells of itself, and, of a plan, what others know it by."""

    path: Path
    sha256: str
    told: Mapping[str, Any]
    plan_sha256: str = ""


@dataclass(frozen=True)
class Link:
    """What one file says another is, and what that is.

    said  "" where it says nothing
    """

    source: str
    file: str
    said: str
    found: str

    @property
    def passed(self) -> bool:
        """What was said holds."""
        return self.said == self.found


@dataclass(frozen=True)
class Chain:
    """The files that there are; None for those that there are not."""

    dense: Artefact
    ranks: Artefact | None = None
    plan: Artefact | None = None
    pruned: Artefact | None = None
    emitted: tuple[Artefact, ...] = ()
    report: Artefact | None = None

    @property
    def files(self) -> tuple[Artefact, ...]:
        """All but the network that it began with."""
        return tuple(f for f in (self.ranks, self.plan, self.pruned, *self.emitted, self.report) if f is not None)

    @property
    def links(self) -> tuple[Link, ...]:
        """Every link, the nearest to the network first."""
        return tuple(link for part in (self.inner(), self.outer(), self.reported()) for link in part)

    def inner(self) -> Iterator[Link]:
        """Up to the plan."""
        for file in filter(None, (self.ranks, self.plan)):
            yield link(self.dense, file, "sha256", self.dense.sha256)
        if self.ranks is not None and self.plan is not None:
            yield link(self.ranks, self.plan, "ranks_sha256", self.ranks.sha256)

    def outer(self) -> Iterator[Link]:
        """Networks: each tells what it was made from, and by which plan. An emitted one may be made from either."""
        if self.pruned is not None:
            yield link(self.dense, self.pruned, "source_sha256", self.dense.sha256)
        for file in self.emitted:
            sources = [f for f in (self.pruned, self.dense) if f is not None]
            source = next((f for f in sources if f.sha256 == file.told.get("source_sha256")), sources[-1])
            yield link(source, file, "source_sha256", source.sha256)
        for file in filter(None, (self.pruned, *self.emitted)):
            if self.plan is not None:
                yield link(self.plan, file, "plan_sha256", self.plan.plan_sha256)

    def reported(self) -> Iterator[Link]:
        """The report's own list."""
        if self.report is not None:
            before = self.report.told.get("models", {}).get("before", {}).get("sha256")
            yield Link(self.dense.path.name, self.report.path.name, str(before or ""), self.dense.sha256)
            listed = self.report.told.get("files", {})
            for file in (f for f in self.files if f is not self.report):
                yield Link(file.path.name, self.report.path.name, str(listed.get(file.path.name, "")), file.sha256)


def link(source: Artefact, file: Artefact, key: str, found: str) -> Link:
    """What a file says of another under this key."""
    return Link(source.path.name, file.path.name, str(file.told.get(key) or ""), found)


# ---- reading ---------------------------------------------------------------------------------------------------------
def of_folder(dense: Artefact, folder: Path) -> Chain:
    """The files of a run of compress; raises BadInput where one that each run leaves is missing or damaged."""
    pruned = network(folder / "model.onnx")
    files = sorted(p for p in folder.iterdir() if p.suffix in EMITTED and p != pruned.path)
    report = document(folder / "report.json", "a report.json")
    return Chain(
        dense, ranks(folder / "ranks.npz"), plan(folder / "plan.json"), pruned, tuple(map(network, files)), report
    )


def original(path: Path, model: Model) -> Artefact:
    """The network that it began with."""
    return Artefact(path, model.sha256, {})


def ranks(path: Path) -> Artefact:
    """ranks.npz."""
    way_out = "Make one with jettison rank"
    arrays = read_arrays(path, "a ranks.npz file", way_out)
    try:
        told = dict(json.loads(arrays["about"].tobytes()))
    except DAMAGED as error:
        raise BadInput("is no ranks.npz file of jettison", str(path), way_out) from error
    return Artefact(path, sha256(path.read_bytes()).hexdigest(), told)


def document(path: Path, kind: str) -> Artefact:
    """A file of JSON."""
    raw = read_bytes(path, kind)
    try:
        told = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"is not {kind}", str(path)) from error
    if not isinstance(told, dict):
        raise BadInput(f"is not {kind}", str(path))
    return Artefact(path, sha256(raw).hexdigest(), told)


def plan(path: Path) -> Artefact:
    """plan.json."""
    found = document(path, "a plan.json file")
    try:
        removed = {str(g["name"]): sorted({int(i) for i in g["removed"]}) for g in found.told["groups"]}
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise BadInput("is no plan.json of jettison", str(path), "Make one with jettison prune --plan-out") from error
    return Artefact(path, found.sha256, found.told, digest(removed))


def network(path: Path) -> Artefact:
    """A pruned or an emitted network."""
    if path.suffix == ".tflite":
        raw = read_bytes(path, "a model")
        return Artefact(path, sha256(raw).hexdigest(), lite_metadata(raw, path))
    model = load(path)
    return Artefact(path, model.sha256, told(model.ir.metadata_props))


def lite_metadata(raw: bytes, path: Path) -> dict[str, str]:
    """What a TFLite file tells of itself; raises BadInput for what is none."""
    import struct

    from toolchain.emit.lite_file import opened

    try:
        file = opened(raw)
        entries = {m.name.decode(): file.buffers[m.buffer].bytes for m in file.metadata or ()}
        return {k: bytes(v).decode() for k, v in entries.items() if v is not None and k in KEYS}
    except (struct.error, ValueError, TypeError, IndexError, AttributeError, OverflowError, MemoryError) as error:
        raise BadInput("is no sound TFLite file", str(path)) from error

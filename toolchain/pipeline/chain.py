"""The chain of hashes from a network to what was made of it: who names whom, and where that is no longer true.

MODEL -> ranks.npz -> plan.json -> pruned .onnx -> what was made of it; and a report names all but itself.
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
from toolchain.model import Model
from toolchain.provenance import KEYS, told
from toolchain.validate import read_bytes, read_proto

MISSING = "not there"
NETWORKS = (".onnx", ".tflite")
FIRST = "model.onnx"  # what compress, tune and sparsify deliver, before what they emit
PLANLESS = ("export", "gradient", "retrain")  # commands that follow no plan: their files name that of their source


@dataclass(frozen=True)
class Artefact:
    """A file of the chain: the hash of its bytes, what it tells of itself, and, of a plan, what others know it by."""

    path: Path
    sha256: str
    told: Mapping[str, Any]
    plan_sha256: str = ""

    @property
    def command(self) -> str:
        """The command that made it, "" where it does not tell."""
        try:
            return str(json.loads(self.told["settings"])["command"])
        except (KeyError, TypeError, ValueError, RecursionError):
            return ""


@dataclass(frozen=True)
class Link:
    """What one file says another is, and what that is.

    said   "" where it says nothing
    found  "" for a plan that removes nothing, MISSING for a file that is not there
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
    """The files that there are; None for those that there are not.

    networks  what was made of the first one, `FIRST` before all others
    """

    dense: Artefact
    ranks: Artefact | None = None
    plan: Artefact | None = None
    networks: tuple[Artefact, ...] = ()
    report: Artefact | None = None

    @property
    def files(self) -> tuple[Artefact, ...]:
        """All but the network that it began with."""
        return tuple(f for f in (self.ranks, self.plan, *self.networks, self.report) if f is not None)

    @property
    def links(self) -> tuple[Link, ...]:
        """Every link, the nearest to the network first."""
        return tuple(link for part in (self.inner(), self.outer(), self.reported()) for link in part)

    def named(self, sha256: object) -> Artefact:
        """The network with this hash; the one that it began with where there is none."""
        return next((n for n in self.networks if n.sha256 == sha256), self.dense)

    def source(self, network: Artefact) -> Artefact:
        """The network that another says it was made from."""
        return self.named(network.told.get("source_sha256"))

    def twin(self, network: Artefact) -> Artefact | None:
        """The float ONNX file of the same source, plan and settings as an emitted one: it was written with it."""
        alike = lambda n: [n.told.get(k) for k in ("source_sha256", "plan_sha256", "settings")]
        plain = (n for n in self.networks if n.path.suffix == ".onnx" and not n.told.get("format"))
        return next((n for n in plain if n is not network and alike(n) == alike(network)), None)

    def inner(self) -> Iterator[Link]:
        """Up to the plan."""
        for file in filter(None, (self.ranks, self.plan)):
            source = self.named(file.told.get("sha256"))
            yield link(source, file, "sha256", source.sha256)
        if self.ranks is not None and self.plan is not None:
            yield link(self.ranks, self.plan, "ranks_sha256", self.ranks.sha256)

    def outer(self) -> Iterator[Link]:
        """Networks: each tells what it was made from, and by which plan."""
        for file in self.networks:
            source = self.source(file)
            yield link(source, file, "source_sha256", source.sha256)
            if self.plan is not None and (file.told.get("plan_sha256") or self.is_planned(file)):
                yield link(self.plan, file, "plan_sha256", self.plan.plan_sha256)

    def is_planned(self, network: Artefact) -> bool:
        """Whether the plan is of what a network was made from, by a command that follows one."""
        is_of = self.plan is not None and self.plan.told.get("sha256") == self.source(network).sha256
        return is_of and network.command not in PLANLESS

    def reported(self) -> Iterator[Link]:
        """The report's own list."""
        if self.report is not None:
            before = said_at(self.report.told, "models", "before", "sha256")
            yield Link(self.dense.path.name, self.report.path.name, str(before or ""), self.dense.sha256)
            there = {f.path.name: f.sha256 for f in self.files if f is not self.report}
            files = self.report.told.get("files")
            listed = {str(k): str(v) for k, v in files.items()} if isinstance(files, dict) else {}
            for name in there | listed:
                yield Link(name, self.report.path.name, listed.get(name, ""), there.get(name, MISSING))

    def lacking(self) -> Iterator[tuple[str, str]]:
        """(file, other): links that cannot be checked since one of both is not there, "" where no other is named."""
        for name, file in (("ranks.npz", self.ranks), ("plan.json", self.plan), ("report.json", self.report)):
            if file is None:
                yield name, ""
        if self.plan is None:
            yield from ((n.path.name, "plan.json") for n in self.networks if n.told.get("plan_sha256"))


def said_at(told: Any, *keys: str) -> Any:
    """What a file says under keys within keys; None where one of them is not there."""
    for key in keys:
        told = told.get(key) if isinstance(told, Mapping) else None
    return told


def link(source: Artefact, file: Artefact, key: str, found: str) -> Link:
    """What a file says of another under this key."""
    return Link(source.path.name, file.path.name, str(file.told.get(key) or ""), found)


# ---- reading ---------------------------------------------------------------------------------------------------------
def of_folder(dense: Artefact, folder: Path) -> Chain:
    """The files of a folder, whichever command wrote them; raises BadInput for one that is damaged and for no file."""
    paths = sorted((p for p in folder.iterdir() if p.suffix in NETWORKS), key=lambda p: (p.name != FIRST, p.name))
    networks = tuple(n for n in map(network, paths) if n.sha256 != dense.sha256)
    there = lambda name, read: read(folder / name) if (folder / name).exists() else None
    report = there("report.json", lambda path: document(path, "a report.json"))
    chain = Chain(dense, there("ranks.npz", ranks), there("plan.json", plan), networks, report)
    if not chain.files:
        raise BadInput("holds no file that was made of a network", str(folder), "Give a folder that jettison wrote")
    return chain


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
    """A network that was made of another."""
    if path.suffix == ".tflite":
        raw = read_bytes(path, "a model")
        return Artefact(path, sha256(raw).hexdigest(), lite_metadata(raw, path))
    proto, name = read_proto(path)
    return Artefact(path, name, told({p.key: p.value for p in proto.metadata_props}))


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

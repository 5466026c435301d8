"""The dense part of a trained rover network, G of F = G∘H, on the activations in front of its flatten.

Pruning flatten, dense1 and dense2 leaves the convolutions alone, so that H runs once for each image and every level of
masking after that costs three matrix products. The ranking is the paper's, −E of the loss's attribution (Lundstrom et
al. 2022, eq. 6), signed in all three layers, over the training split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from benchmarks.reproduce.train_msl5 import SPLITS
from toolchain.compress.attribution import attribute
from toolchain.compress.criteria import Ranks, onto_units
from toolchain.compress.groups import Channels, analyse
from toolchain.compress.plan import Plan, make_plan
from toolchain.data import Samples, load_samples
from toolchain.model import Model, load
from toolchain.session import run, session, with_outputs

LEVELS = tuple(range(50, 100, 5))  # per cent of each layer that is masked
BATCH = 32


@dataclass(frozen=True)
class Head:
    """A network [n, channels, height, width] -> logits with its samples and ranking.

    convolutions  from images [n, 3, S, S] in 0..1 to what `model` reads
    samples       {train, val, test: activations with labels}
    """

    model: Model
    channels: Channels
    ranks: Ranks
    convolutions: Callable[[np.ndarray], np.ndarray]
    samples: Mapping[str, Samples]


def work_of(trained: Path, work: Path) -> Path:
    """A folder in `work` for what is derived from this network alone, by its SHA-256; made if it is missing."""
    folder = work / hashlib.sha256((trained / "msl5.onnx").read_bytes()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def read_head(trained: Path, work: Path, threads: int) -> Head:
    """The head of `trained`/msl5.onnx on its three splits; activations are kept in `work`, a folder of `work_of`."""
    path = trained / "msl5.onnx"
    whole = load(path)
    front = str(next(n for n in whole.graph if n.op_type == "Flatten").inputs[0].name)
    part = work / "head.onnx"
    if not part.exists():
        partial = part.with_suffix(".partial.onnx")
        onnx.utils.extract_model(str(path), str(partial), [front], [str(whole.graph.outputs[0].name)])
        partial.replace(part)
    model = load(part)
    runner = session(with_outputs(whole.ir, [front]), threads)

    def convolutions(images: np.ndarray) -> np.ndarray:
        parts = [run(runner, {"image": images[i : i + BATCH]})[0] for i in range(0, len(images), BATCH)]
        return np.concatenate(parts)

    samples = {}
    for split, file in SPLITS.items():
        kept = work / f"{split}.npz"
        if not kept.exists():
            images = load_samples(trained / f"{file}.npz", whole)
            partial = kept.with_suffix(".partial.npz")
            named = {"classes": np.array(images.classes)} if images.classes else {}
            np.savez(partial, x=convolutions(images.inputs["image"]), y=images.labels, **named)
            partial.replace(kept)
        samples[split] = load_samples(kept, model)
    channels = analyse(model)
    return Head(model, channels, ranked(model, channels, samples["train"], threads), convolutions, samples)


def ranked(model: Model, channels: Channels, samples: Samples, threads: int) -> Ranks:
    """Signed integrated gradients of the loss in every layer (eq. 6); dead units are flagged."""
    assert samples.labels is not None
    cuts = [cut for g in channels.groups for cut in g.cuts]
    found = dict(zip(cuts, attribute(model, cuts, samples.inputs, samples.labels, threads=threads), strict=True))
    scores, dead = {}, {}
    for g in channels.groups:
        ((cut, axis),) = g.cuts
        a = found[cut, axis]
        scores[g.name] = onto_units(g, channels, cut, axis, a.rank)
        dead[g.name] = onto_units(g, channels, cut, axis, a.is_live.astype(float)) == 0
    facts = {"criterion": "signed ig", "completeness_gap": {f.cut: f.gap for f in found.values()}}
    return Ranks(model.sha256, scores, dead, facts)


def masked(head: Head, level: int) -> Plan:
    """The plan that masks this percentage of each layer, dead units first, then by rising rank."""
    return make_plan(head.model, head.channels, head.ranks.scores, head.ranks.dead, f"units<={100 - level}%", "off")

"""Iterative magnitude pruning with weight reset (Lukkien, Alg. 2.1; after Frankle & Carbin 2019).

In each round the weights of all layers that are nearest to 0 go, the others return to where they were in the network
that was given, and that network is trained with its zeros held. The print compares signed weights; |w| is meant.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from toolchain.data import Samples
from toolchain.errors import OutOfReach, UsageError
from toolchain.files import write_json
from toolchain.model import Model, load, save
from toolchain.ops.table import find
from toolchain.provenance import asked, signed
from toolchain.retrain.augment import Augment
from toolchain.retrain.checkpoint import about_run
from toolchain.retrain.network import is_trained
from toolchain.retrain.recipe import Recipe
from toolchain.retrain.training import Progress, retrain
from toolchain.validate import read_bytes

SERIES = "series.json"  # beside the rounds: what they depend on
Weights = Mapping[str, NDArray[Any]]


def weights_of(model: Model, frozen: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
    """Parameters that a node multiplies its input by and sums: kernels and matrices that are trained, no biases.

    frozen  globs of parameters and nodes that are left out
    """
    found = {}
    for node in model.graph:
        entry = find(node)
        for i in (0, 1) if entry is not None and entry.macs is not None else ():
            value = node.inputs[i]
            is_held = value is None or any(
                fnmatchcase(str(n), glob) for n in (value.name, node.name) for glob in frozen
            )
            if value is not None and value.const_value is not None and is_trained(value) and not is_held:
                found[str(value.name)] = value.const_value.numpy()
    return found


def left(weights: Weights) -> int:
    """Weights that are not 0."""
    return sum(int(np.count_nonzero(w)) for w in weights.values())


def kept_after(weights: Weights, share: float) -> dict[str, NDArray[np.bool_]]:
    """Weights that stay: those above the threshold |w|₍⌈share·r⌉₎ of the r that are not 0, all layers together.

    |w|₍₀₎ is the smallest, so that ⌈share·r⌉ + 1 weights go, and those that are as large as the last of them.
    Lukkien, Alg. 2.1.
    """
    sizes = np.concatenate([np.abs(w[w != 0]) for w in weights.values()])
    place = min(math.ceil(share * len(sizes)), len(sizes) - 1)
    threshold = np.partition(sizes, place)[place]
    return {name: np.abs(w) > threshold for name, w in weights.items()}


def reset(model: Model, kept: Mapping[str, NDArray[np.bool_]]) -> Model:
    """The model with 0 for weights that are not kept; all else as it was."""
    clone = model.ir.clone()
    for name, stays in kept.items():
        value = clone.graph.initializers[name]
        assert value.const_value is not None
        value.const_value = ir.tensor(np.where(stays, value.const_value.numpy(), 0), name=name)
    return model.with_ir(clone)


@dataclass(frozen=True)
class Round:
    """One network of a series; number 0 is the one that was given.

    weights  (not 0, all) of those that are pruned
    """

    number: int
    weights: tuple[int, int]
    model: Model

    @property
    def density(self) -> float:
        """Share of weights that are left."""
        return self.weights[0] / self.weights[1]


def rounds(
    model: Model,
    samples: Samples,
    validation: Samples | None,
    recipe: Recipe,
    folder: Path,
    *,
    count: int = 25,
    share: float = 0.2,
    teacher: Model | None = None,
    augment: Sequence[str | Augment] = (),
    progress: Progress = lambda stage, done, total: None,
) -> Iterator[Round]:
    """The network as it is and after each round, written to `folder`/round-NN.onnx; rounds that lie there are read.

    A series that was stopped goes on to the same bits: in the round that it was in, from that round's checkpoint.
    Raises UsageError for a share outside 0..1 or where `folder` holds another series, OutOfReach for a round that would
    leave no weight.
    """
    if not 0 < share < 1:
        raise UsageError(
            f"a share of {share:g} cannot go in each round", way_out="Give one between 0 and 1, such as 20%"
        )
    recipe = replace(recipe, keep_zeros=True)
    about = about_run(model, samples, validation, recipe, teacher, augment) | {"share": share}
    check_series(folder / SERIES, about)
    network, total = model, sum(w.size for w in weights_of(model, recipe.frozen).values())
    if not total:
        raise UsageError("no weight is free to be pruned", way_out="Give fewer --freeze")
    yield Round(0, (left(weights_of(model, recipe.frozen)), total), model)
    for number in range(1, count + 1):
        told = asked(model, json.loads(model.settings or "{}") | {"round": number})
        path = folder / f"round-{number:02}.onnx"
        checkpoint = path.with_suffix(".pt")
        if not path.exists():
            kept = kept_after(weights_of(network, recipe.frozen), share)
            if not any(stays.any() for stays in kept.values()):
                raise OutOfReach(f"round {number} would leave no weight", way_out=f"Ask for {number - 1} rounds")
            network, _ = retrain(
                reset(told, kept), samples, validation, recipe,
                teacher=teacher, checkpoint=checkpoint, augment=augment, progress=progress,
            )  # fmt: skip
            write_json(folder / SERIES, about)
            save(signed(network), path)
        checkpoint.unlink(missing_ok=True)
        network = replace(load(path), sha256=model.sha256, settings=told.settings)
        yield Round(number, (left(weights_of(network, recipe.frozen)), total), network)


def check_series(path: Path, about: dict[str, Any]) -> None:
    """Raise UsageError where rounds lie there that depend on anything else."""
    held = json.loads(read_bytes(path, "what a series of rounds depends on")) if path.exists() else about
    for name in (n for n in about if held.get(n) != about[n]):
        raise UsageError(f"holds other rounds: their {name} differs", str(path.parent), "Give another folder")

"""A run on disk: written between epochs and as a whole, so that a kill at any moment loses some epochs at most."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from toolchain.data import Samples, sha256_of
from toolchain.errors import BadInput, UsageError
from toolchain.files import check_new, write_atomic
from toolchain.model import Model
from toolchain.onnx_file import pieces
from toolchain.retrain.network import Network
from toolchain.retrain.recipe import Epoch, History, Recipe

PAUSE = 20.0  # seconds between checkpoints


@dataclass(frozen=True)
class Kept:
    """How far a run is, and its weights at the best epoch."""

    history: History
    best: dict[str, Tensor]


def about_run(
    model: Model,
    samples: Samples,
    validation: Samples | None,
    recipe: Recipe,
    teacher: Model | None,
    augment: Sequence[str | Callable[..., Any]],
) -> dict[str, Any]:
    """All that a run depends on."""
    numbers = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(recipe).items()}
    return {
        "model": digest(model),
        "data": sha256_of(samples),
        "validation": None if validation is None else sha256_of(validation),
        "teacher": None if teacher is None else digest(teacher),
        "augmentation": [a if isinstance(a, str) else a.__qualname__ for a in augment],
    } | numbers


def digest(model: Model) -> str:
    """SHA-256 of the file that the model would be."""
    found = hashlib.sha256()
    for piece in pieces(model.ir):
        found.update(piece)
    return found.hexdigest()


@dataclass
class Keeper:
    """Writes and reads one checkpoint; None keeps nothing.

    about  what the run depends on: another run's file is refused
    """

    path: Path | None
    about: dict[str, Any]
    written: float = field(default_factory=time.monotonic)

    def write(self, kept: Kept, network: Network, optimiser: torch.optim.Optimizer, is_last: bool) -> None:
        """Write if the last time is long ago, or if it is over: then the best epoch alone is needed."""
        if self.path is None or (not is_last and time.monotonic() - self.written < PAUSE):
            return
        state = {
            "about": self.about,
            "epochs": [asdict(e) for e in kept.history.epochs],
            "stopped": kept.history.stopped,
            "best": kept.best,
            "network": None if is_last else network.state_dict(),
            "optimiser": None if is_last else optimiser.state_dict(),
        }
        whole = io.BytesIO()  # torch's writer makes an error of its own of whatever ends the writing of a file
        torch.save(state, whole)
        write_atomic(self.path, lambda file: file.write(whole.getbuffer()))
        self.written = time.monotonic()

    def read(self, network: Network, optimiser: torch.optim.Optimizer) -> Kept | None:
        """How far the run was, its weights and moments put in place; None where it has not begun.

        Raises BadInput for a file that is no checkpoint, or that cannot be written, UsageError for another run's.
        """
        if self.path is None:
            return None
        check_new(self.path, force=True)
        if not self.path.exists():
            return None
        try:
            state = torch.load(io.BytesIO(self.path.read_bytes()), weights_only=True, map_location="cpu")
            about, epochs = state["about"], tuple(Epoch(**e) for e in state["epochs"])
        except Exception as error:  # torch raises whatever it trips over in a file that is none of its own
            raise BadInput("is no checkpoint of jettison retrain", str(self.path), "Remove it to begin anew") from error
        for name in (n for n in self.about if about.get(n) != self.about[n]):
            way_out = "Give another --checkpoint, or remove this one to begin anew"
            raise UsageError(f"belongs to another run: its {name} differs", str(self.path), way_out)
        if state["network"] is not None:
            network.load_state_dict(state["network"])
            optimiser.load_state_dict(state["optimiser"])
        return Kept(History(epochs, state["stopped"]), state["best"])

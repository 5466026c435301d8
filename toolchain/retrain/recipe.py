"""How a network is retrained, and what came of it: numbers alone, without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from toolchain.errors import UsageError, nearest

RATES = {"sgd": 0.01, "momentum": 0.01, "adamw": 0.001}  # optimiser -> its usual rate
WARM = 0.05  # share of all steps over which the rate rises


@dataclass(frozen=True)
class Recipe:
    """Stochastic gradient descent over shuffled samples, the rate on a cosine after a short rise.

    rate         highest learning rate; None: the optimiser's usual one
    rates        of each epoch, in the cosine's place; (): the cosine
    optimiser    sgd (momentum 0.9, Nesterov), momentum (0.9, without Nesterov) or adamw
    decay        of weights with two or more axes: biases and norms do not decay
    smoothing    of labels, in 0..1
    patience     epochs without a better one before it stops; None: all are run
    temperature  of the softmax in which a teacher is followed
    weight       of the teacher where there are labels too, in 0..1
    frozen       globs of initializers and nodes that stay as they are
    keep_zeros   whether weights that are 0 in matrices and kernels stay 0: a sparse network stays as sparse
    target       "loss" (class scores) or "answer" (real values), where the outputs do not tell
    """

    epochs: int = 20
    batch: int = 32
    rate: float | None = None
    optimiser: str = "sgd"
    decay: float = 1e-4
    smoothing: float = 0.0
    patience: int | None = None
    temperature: float = 2.0
    weight: float = 0.7
    frozen: tuple[str, ...] = ()
    keep_zeros: bool = False
    rates: tuple[float, ...] = ()
    target: str | None = None
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        if self.optimiser not in RATES:
            raise UsageError(f"there is no optimiser '{self.optimiser}'", way_out=nearest(self.optimiser, RATES))
        sound = {
            "epochs": self.epochs >= 1,
            "batch": self.batch >= 1,
            "rate": self.rate is None or 0 < self.rate < math.inf,
            "rates": not self.rates or (len(self.rates) == self.epochs and all(0 < r < math.inf for r in self.rates)),
            "decay": 0 <= self.decay < math.inf,
            "smoothing": 0 <= self.smoothing < 1,
            "patience": self.patience is None or self.patience >= 1,
            "temperature": 0 < self.temperature < math.inf,
            "weight": 0 <= self.weight <= 1,
            "threads": self.threads >= 1,
        }
        for name in (n for n, is_sound in sound.items() if not is_sound):
            raise UsageError(f"{name} cannot be {getattr(self, name)}", way_out="See jettison retrain --help")

    @property
    def highest(self) -> float:
        """The rate at the top."""
        return RATES[self.optimiser] if self.rate is None else self.rate

    def rate_at(self, step: int, steps: int) -> float:
        """The rate of a step: its epoch's own, or up in a straight line, then down a cosine to 0."""
        if self.rates:
            return self.rates[step * self.epochs // steps]
        rise = max(1, round(WARM * steps))
        if step < rise:
            return self.highest * (step + 1) / rise
        return self.highest * (1 + math.cos(math.pi * (step - rise + 1) / (steps - rise + 1))) / 2


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to; number 0 is the network as it was given.

    rate             at its last step
    loss             mean over the samples that it trained on; None for number 0
    right            share of right answers on validation; None without classes or without validation
    validation_loss  None without validation
    """

    number: int
    rate: float
    loss: float | None
    right: float | None
    validation_loss: float | None

    @property
    def merit(self) -> tuple[float, ...]:
        """The larger the better: right answers, then the loss; without validation the later the better."""
        if self.validation_loss is None:
            return (self.number,)
        return (self.right or 0.0, -self.validation_loss, self.number)

    @property
    def is_finite(self) -> bool:
        """Whether it did not diverge."""
        return all(math.isfinite(x) for x in (self.loss, self.validation_loss) if x is not None)


@dataclass(frozen=True)
class History:
    """Every epoch in order, and why it stopped early, or ""."""

    epochs: tuple[Epoch, ...]
    stopped: str = ""

    @property
    def best(self) -> Epoch:
        """The one that is kept."""
        return max((e for e in self.epochs if e.is_finite), key=lambda e: e.merit, default=self.epochs[0])

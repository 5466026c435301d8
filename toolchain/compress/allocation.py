"""How many units of each group stay: the least loss of importance that meets the limits.

What a group loses is (log of the share of its weight that stays)²: near a minimum a network's loss rises with the
square of what is taken from it, so that every group gives a little before one gives much. Units go where it rises least
for the cost that is freed, a Lagrangian relaxation whose multiplier is found by bisection on exact costs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolchain.ops.units import Ids

SLACK = 0.01  # a budget is met from below, within 1 %
STAGES = 6


def losses(order: Ids, scores: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """What removing the i-th unit of the order loses, [u], rising: (log of the weight that stays)², after less before.

    The normalisation of every criterion: scores of a group count relative to their sum, whatever their scale.
    A unit's weight is half its share of the group's positive score, half 1/u; the last unit is worth everything.
    """
    n = len(order)
    weight = np.full(n, 1 / n)
    if scores is not None:
        positive = np.maximum.accumulate(np.clip(scores[order], 0, None))
        weight = (weight + positive / max(float(positive.sum()), 1e-30)) / 2
    stays = np.append(np.cumsum(weight[::-1])[::-1], 0.0)
    with np.errstate(divide="ignore"):
        return np.diff(np.log(stays) ** 2)


@dataclass(frozen=True)
class Search:
    """One search for widths [g] between `least` and `start`, in multiples of `step` but for these two.

    rising  loss of each removal of each group, in order
    limits  how many limits there are, those first that are cheaper to ask
    share   (widths, limit) -> cost over limit
    """

    start: NDArray[np.int64]
    least: NDArray[np.int64]
    step: NDArray[np.int64]
    rising: Sequence[NDArray[np.float64]]
    limits: int
    share: Callable[[NDArray[np.int64], int], float]

    def loss(self, kept: NDArray[np.int64]) -> float:
        """Summed loss of these widths."""
        return sum(float(r[: len(r) - k].sum()) for r, k in zip(self.rising, kept, strict=True))

    def excess(self, kept: NDArray[np.int64]) -> float:
        """The worst cost over its limit."""
        return max(self.share(kept, q) for q in range(self.limits))

    def fits(self, kept: NDArray[np.int64], limit: float = 1.0) -> bool:
        """Whether no cost is beyond this share of its limit; the first one that is settles it."""
        return all(self.share(kept, q) <= limit for q in range(self.limits))

    def widths_within(self, limit: float, leap: bool) -> NDArray[np.int64]:
        """Widths whose costs stay under the limits.

        leap  where a wide step of a group jumps over the budget: take the jump and give back elsewhere, or stay there
        """
        kept, locked, price = self.start, np.zeros(len(self.start), bool), np.zeros(len(self.start))

        def widths(multiplier: float) -> NDArray[np.int64]:
            size = [len(r) for r in self.rising]
            gone = [
                int(np.searchsorted(r, multiplier * p, side="right")) for r, p in zip(self.rising, price, strict=True)
            ]
            wanted = np.clip(np.array(size) - np.array(gone), self.least, self.start)
            wanted = np.minimum(-(-wanted // self.step) * self.step, self.start)  # a step goes when all of it may
            return np.where(locked, kept, wanted)

        for stage in np.linspace(0, 1, STAGES + 1)[1:]:  # marginal costs change as other groups shrink: follow the path
            goal = limit * (self.excess(self.start) / limit) ** (1 - stage)
            fresh = self.marginal(kept)
            price = np.where(fresh > 0, fresh, price)  # a group at its end keeps the price that brought it there
            low, high = bracket(lambda m, goal=goal: self.fits(widths(m), goal))
            while stage == 1 and high is not None and self.excess(widths(high)) < limit - SLACK:
                jumped = (widths(low) != widths(high)) & ~locked
                if not jumped.any():
                    break
                kept = np.where(locked, kept, widths(high if leap else low))
                locked = locked | jumped
                low, high = bracket(lambda m: self.fits(widths(m), limit))
            if high is None:
                return self.least
            kept = widths(high)
        return kept

    def scaled(self) -> NDArray[np.int64]:
        """The least uniform shrinking within the limits, for costs that no single group lowers, as peak memory."""
        low, high = 0.0, 1.0  # of the way from `start` to `least`; the far end is within
        while high - low > 1e-4:
            middle = (low + high) / 2
            low, high = (low, middle) if self.fits(self.between(middle)) else (middle, high)
        return self.between(high)

    def between(self, share: float) -> NDArray[np.int64]:
        """Widths this share of the way from `start` to `least`, in multiples of `step`."""
        wanted = self.start - np.floor(share * (self.start - self.least)).astype(np.int64)
        return np.clip(-(-wanted // self.step) * self.step, self.least, self.start)

    def grown(self, kept: NDArray[np.int64]) -> NDArray[np.int64]:
        """Widths to which no group can add a step within the limits: what fits comes back, the dearest first."""
        tight = np.full(len(kept), np.iinfo(np.int64).max)  # pieces that did not fit once, nor will when others grew
        for share in (4, 16, 64, 256, np.inf):
            piece = np.maximum((self.start - kept) // share // self.step * self.step, self.step).astype(np.int64)
            fits, is_last = True, share == np.inf  # the last pass trusts nothing: a gather that goes frees bytes
            while fits:
                more = np.minimum(kept // self.step * self.step + piece, self.start)
                ends = zip(self.rising, more, kept, strict=True)
                regained = [float(r[len(r) - m : len(r) - k].sum()) for r, m, k in ends]
                fits = False
                for g in np.argsort(regained)[::-1]:
                    if more[g] == kept[g] or (piece[g] >= tight[g] and not is_last):
                        continue
                    wider = np.where(np.arange(len(kept)) == g, more, kept)
                    if self.fits(wider):
                        kept, fits = wider, True
                    else:
                        tight[g] = piece[g]
        return kept

    def marginal(self, kept: NDArray[np.int64]) -> NDArray[np.float64]:
        """Cost that one more removed unit of each group frees, in shares of the limits that still bind, [g]."""
        now = [self.share(kept, q) for q in range(self.limits)]
        binding = [q for q in range(self.limits) if now[q] > min(1, max(now)) - SLACK]
        freed = np.zeros(len(kept))
        for g in range(len(kept)):
            fewer = kept.copy()
            fewer[g] = max(kept[g] - max(self.step[g], len(self.rising[g]) // 8), 1)
            if fewer[g] < kept[g]:
                less = sum(max(now[q] - self.share(fewer, q), 0.0) for q in binding)
                freed[g] = less / (kept[g] - fewer[g])
        return freed


def bracket(is_enough: Callable[[float], bool]) -> tuple[float, float | None]:
    """(too small, enough) multipliers close together; None if none is enough."""
    low, high = 0.0, 1.0
    if is_enough(low):
        return low, low
    while not is_enough(high):
        low, high = high, high * 4
        if high > 1e30:
            return low, None
    while high - low > 1e-4 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return low, high

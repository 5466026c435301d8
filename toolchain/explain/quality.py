"""How good heatmaps are: against a mask or another heatmap, and by what a network loses with the pixels they point at.

Perturbation, deletion and insertion are one thing: each pixel has its turn, and at step k an image has the pixels of
another one wherever their turn is below k. They differ in what the other image is and in whose turn comes when.

Nothing here knows how a heatmap was made, or what the network is: `predict` takes images [m, c, h, w] to scores
[m, classes] (logits or probabilities: curves are in their units). Heatmaps are [n, h, w], one for each image; those of
another size are an error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import UsageError

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]
Ints = NDArray[np.int64]
Predict = Callable[[F32], NDArray[Any]]
Fill = float | F32 | None

LARGEST_BATCH, LARGEST_FEED = 256, 1 << 22  # images, and elements, of one call of `predict`
ACROSS = 8  # regions along the longer side, where no size is asked for
STEPS = 32  # of deletion and insertion, where none are asked for


# ---- against a mask or another heatmap -----------------------------------------------------------------------------
def weighted_iou(a: NDArray[Any], b: NDArray[Any]) -> F64:
    """Σ min(A, B) / Σ max(A, B) of each pair, [n, *s] -> [n]: 1 for equal maps, 0 for disjoint ones, nan for empty.

    What speaks for and what speaks against count apart: min and max are taken over the positive parts and over the
    negative parts. For maps without negative values this is Lukkien, eq. 2.7 and 2.8, of which the print inverts the
    first and leaves the sums out of the second. Maps are compared as they are: bring them to one scale before.
    """
    check_alike(a, b)
    below, above = np.zeros(len(a)), np.zeros(len(a))
    for sign in (1, -1):
        p, q = (np.maximum(sign * rows(m), 0) for m in (a, b))
        below += np.minimum(p, q).sum(axis=1)
        above += np.maximum(p, q).sum(axis=1)
    return np.divide(below, above, out=np.full(len(a), np.nan), where=above > 0)


def shares(maps: NDArray[Any]) -> F64:
    """Each map by its Σ|A|, so that maps of any scale compare; an empty one stays so."""
    return scaled(maps, np.abs(rows(maps)).sum(axis=1))


def peaks(maps: NDArray[Any]) -> F64:
    """Each map by its largest |A|, so that it compares with a mask; an empty one stays so."""
    return scaled(maps, np.abs(rows(maps)).max(axis=1))


def scaled(maps: NDArray[Any], by: F64) -> F64:
    """Each map by its number, or as it is where that is 0."""
    return maps / np.where(by > 0, by, 1.0).reshape(-1, *[1] * (maps.ndim - 1))


def rank_correlation(a: NDArray[Any], b: NDArray[Any]) -> F64:
    """Spearman's correlation of each pair, [n, *s] -> [n]; equal values share their rank; nan for a constant map."""
    check_alike(a, b)
    p, q = (np.stack([ranks(r) for r in rows(m)]) if len(m) else rows(m) for m in (a, b))
    p, q = (m - m.mean(axis=1, keepdims=True) for m in (p, q))
    spread = np.sqrt((p * p).sum(axis=1) * (q * q).sum(axis=1))
    return np.divide((p * q).sum(axis=1), spread, out=np.full(len(a), np.nan), where=spread > 0)


def ranks(values: NDArray[Any]) -> F64:
    """Places in rising order from 0 on, [m]; equal values have the mean of theirs."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[which]


def pointing(maps: NDArray[Any], masks: NDArray[np.bool_], tolerance: float = 0.0) -> F64:
    """Whether each map's largest value lies on its object, [n] in 0..1: the pointing game of Zhang et al. 2018.

    Where several pixels share the largest value, the share of them that do: what picking one of them hits on average.

    masks      true on the object, [n, h, w]
    tolerance  pixels that a hit may lie beside it; the paper's is 15 at a side of 224 or more
    """
    check_alike(maps, masks)
    top = rows(maps) == rows(maps).max(axis=1, keepdims=True)
    hit = rows(masks if not tolerance else np.stack([widened(m, tolerance) for m in masks]))
    return (top & hit.astype(bool)).sum(axis=1) / top.sum(axis=1)


def widened(mask: NDArray[np.bool_], by: float) -> NDArray[np.bool_]:
    """Pixels at most so far from one of the mask, [h, w]."""
    reach, (h, w) = int(by), mask.shape
    padded, found = np.pad(mask, reach), np.zeros_like(mask)
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            if down * down + right * right <= by * by:
                found |= padded[reach + down : reach + down + h, reach + right : reach + right + w]
    return found


def boxed(boxes: Ints, height: int, width: int) -> NDArray[np.bool_]:
    """Masks [n, h, w] of boxes [n, 4]: left, top, right, bottom in pixels, the last two beyond the box."""
    left, top, right, bottom = (boxes[:, i, None] for i in range(4))
    down, across = np.arange(height), np.arange(width)
    return ((down >= top) & (down < bottom))[:, :, None] & ((across >= left) & (across < right))[:, None, :]


def completeness_gap(relevance: NDArray[Any], change: NDArray[Any]) -> float:
    """Σ|Σ_i R_i − ΔF| / Σ|ΔF| over the images: 0 where relevance adds up to what it explains.

    relevance  [n, *s]; change  F(x) − F(x') of each image, [n]
    """
    residual = np.abs(rows(relevance).sum(axis=1) - change).sum()
    return float(residual / max(float(np.abs(change).sum()), 1e-12))


def rows(maps: NDArray[Any]) -> F64:
    """[n, *s] -> [n, elements], in the precision that sums are taken in."""
    return maps.reshape(len(maps), int(np.prod(maps.shape[1:]))).astype(np.float64)


def check_alike(a: NDArray[Any], b: NDArray[Any]) -> None:
    """Raise UsageError for maps of different sizes."""
    if a.shape != b.shape:
        raise UsageError(f"maps are {list(a.shape)} and {list(b.shape)}", way_out="Bring them to one size first")


# ---- what a network loses with the pixels --------------------------------------------------------------------------
@dataclass(frozen=True)
class Watched:
    """Images whose pixels are taken away, and whose answers are watched.

    images   [n, c, h, w]
    targets  the class of each whose score is watched, [n]

    Raises UsageError where there are no images, or not a target for each.
    """

    predict: Predict
    images: F32
    targets: Ints

    def __post_init__(self) -> None:
        if not len(self.images) or self.images.ndim != 4:
            raise UsageError(f"no images [n, channels, height, width] but {list(self.images.shape)}")
        if self.targets.shape != (len(self.images),):
            raise UsageError(f"targets are {list(self.targets.shape)} for {len(self.images)} images")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.images.shape[2], self.images.shape[3]

    def checked(self, maps: NDArray[Any]) -> NDArray[Any]:
        """The heatmaps; raises UsageError where they do not fit the images, or are not finite."""
        wanted = (len(self.images), *self.size)
        if maps.shape != wanted:
            raise UsageError(
                f"heatmaps are {list(maps.shape)}, the images need {list(wanted)}",
                way_out="Resize each to its image first",
            )
        if not np.isfinite(maps).all():
            raise UsageError("a heatmap holds NaN or infinity", way_out="Leave its image out")
        return maps

    def scores(self, turns: Ints, steps: int, begin: F32, end: F32) -> F64:
        """The target's score at steps 0 … L, [n, L + 1]: pixels of `end` where their turn is below k, of `begin` else.

        Inputs are made part by part, so that only one part of the n (L + 1) is ever there.

        turns  [n, h, w]; begin, end  [n, c, h, w]
        """
        pairs = len(turns) * (steps + 1)
        found = np.empty(pairs)
        size = max(1, min(LARGEST_BATCH, LARGEST_FEED // self.images[0].size))
        for start in range(0, pairs, size):
            i, k = np.divmod(np.arange(start, min(start + size, pairs)), steps + 1)
            mixed = np.where((turns[i] < k[:, None, None])[:, None], end[i], begin[i])
            answers = self.predict(mixed)
            found[start : start + size] = answers[np.arange(len(i)), self.targets[i]]
        return found.reshape(len(turns), steps + 1)


def region_perturbation(
    watched: Watched,
    maps: NDArray[Any],
    *,
    region: int | None = None,
    steps: int | None = None,
    fill: Fill = None,
    seed: int = 0,
) -> F64:
    """The target's score while regions are replaced, most relevant first, [n, L + 1] (Samek et al. 2017).

    region  pixels along a side of a region of the grid; by default an eighth of the image's longer side
    steps   L, the regions that are replaced; by default all of them
    fill    what they are replaced by: a value, an array that fits the images, or None for uniform noise between their
            smallest and largest value, the same for every method with this seed
    """
    grid = regions(watched.size, region)
    order = region_order(watched.checked(maps), grid)
    return perturbed(watched, order, grid, steps, fill, seed)


def random_perturbation(
    watched: Watched,
    orders: int,
    *,
    region: int | None = None,
    steps: int | None = None,
    fill: Fill = None,
    seed: int = 0,
) -> F64:
    """The same while regions are replaced in random order, [orders, n, L + 1]."""
    grid = regions(watched.size, region)
    n, most = len(watched.images), int(grid.max()) + 1
    draw = (np.random.default_rng([seed, o]).random((n, most)).argsort(axis=1) for o in range(orders))
    found = [perturbed(watched, order, grid, steps, fill, seed) for order in draw]
    return np.stack(found) if found else np.empty((0, n, (most if steps is None else min(steps, most)) + 1))


def perturbed(watched: Watched, order: Ints, grid: Ints, steps: int | None, fill: Fill, seed: int) -> F64:
    """Scores while the regions of `grid` [h, w] are replaced in this order [n, regions]."""
    most = order.shape[1]
    turn = np.empty_like(order)
    np.put_along_axis(turn, order, np.broadcast_to(np.arange(most), order.shape), axis=1)
    taken = most if steps is None else min(steps, most)
    return watched.scores(turn[:, grid], taken, watched.images, filled(watched.images, fill, seed))


def regions(size: tuple[int, int], side: int | None) -> Ints:
    """The number of the region that each pixel lies in, [h, w]; those at the right and lower end may be smaller."""
    side = eighth(size) if side is None else side
    if not 1 <= side <= max(size):
        raise UsageError(f"regions of {side} pixels do not fit images of {size[0]}×{size[1]}")
    down, across = (np.arange(n) // side for n in size)
    return down[:, None] * (across[-1] + 1) + across


def eighth(size: tuple[int, int]) -> int:
    """Pixels along a side of a region where no other is asked for."""
    return -(-max(size) // ACROSS)


def region_order(maps: NDArray[Any], grid: Ints) -> Ints:
    """Regions by falling sum of relevance, [n, regions]; of equal ones the first comes first."""
    cells = grid.ravel()
    sums = np.stack([np.bincount(cells, m, minlength=int(grid.max()) + 1) for m in rows(maps)])
    return np.argsort(-sums, axis=1, kind="stable")


def filled(images: F32, fill: Fill, seed: int) -> F32:
    """What images turn into, [n, c, h, w]."""
    if fill is None:
        return np.random.default_rng(seed).uniform(images.min(), images.max(), images.shape).astype(np.float32)
    return np.broadcast_to(np.float32(fill), images.shape)


def aopc(scores: F64) -> F64:
    """Area over the perturbation curve, [..., L + 1] -> [...]: the mean of f(x⁰) − f(xᵏ) over k = 0 … L.

    That of Samek et al. 2017, before the mean over images.
    """
    return (scores[..., :1] - scores).mean(axis=-1)


def deletion(watched: Watched, maps: NDArray[Any], *, steps: int = STEPS, fill: Fill = 0.0, seed: int = 0) -> F64:
    """The target's score while pixels go, most relevant first, [n, L + 1] (Petsiuk et al. 2018): a good map falls fast.

    fill  what they turn into, as in `region_perturbation`
    """
    turns = pixel_turns(watched.checked(maps), steps)
    return watched.scores(turns, steps, watched.images, filled(watched.images, fill, seed))


def insertion(watched: Watched, maps: NDArray[Any], *, steps: int = STEPS, start: F32 | None = None) -> F64:
    """The target's score while pixels come, most relevant first, [n, L + 1] (Petsiuk et al. 2018): a good map rises.

    start  images to begin with; by default the images blurred
    """
    turns = pixel_turns(watched.checked(maps), steps)
    begin = blurred(watched.images) if start is None else np.broadcast_to(np.float32(start), watched.images.shape)
    return watched.scores(turns, steps, begin, watched.images)


def pixel_turns(maps: NDArray[Any], steps: int) -> Ints:
    """The step at which each pixel has its turn, by falling relevance, an equal number at each, [n, h, w]."""
    if steps < 1:
        raise UsageError(f"{steps} steps are none", way_out="Use 1 or more")
    pixels = rows(maps)
    order = np.argsort(-pixels, axis=1, kind="stable")
    turns = np.empty_like(order)
    np.put_along_axis(
        turns, order, np.broadcast_to(np.arange(order.shape[1]) * steps // order.shape[1], order.shape), 1
    )
    return turns.reshape(maps.shape)


def auc(scores: F64) -> F64:
    """Area under a curve whose steps run from 0 to 1, by trapezia, [..., L + 1] -> [...]."""
    return (scores[..., 1:] + scores[..., :-1]).mean(axis=-1) / 2


def blurred(images: F32, sigma: float | None = None) -> F32:
    """Images under a Gaussian, [n, c, h, w]; at the border over what there is.

    sigma  in pixels; by default an eighth of the longer side, which leaves no shape to see
    """
    spread = max(images.shape[2:]) / 8 if sigma is None else sigma

    def smooth(n: int) -> F64:
        apart = np.arange(n)[:, None] - np.arange(n)
        weight = np.exp(-0.5 * (apart / spread) ** 2)
        return weight / weight.sum(axis=1, keepdims=True)

    down, across = (smooth(n) for n in images.shape[2:])
    return (down @ images @ across.T).astype(np.float32)

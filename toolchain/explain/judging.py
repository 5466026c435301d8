"""Every heatmap method on the same images of a network, judged by the measures of `quality`.

Each explains the class that the network predicts, and is judged by the probability of that class: what it loses with
regions and with pixels that go, most relevant first, and what it wins with pixels that come out of a blur.

What goes turns into the mean colour of its image by default. Uniform noise (Samek et al. 2017) is there too: on images
that are uniform themselves it is a stronger signal than what it hides, and random orders then do as well as any.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolchain.compress.attribution import Progress
from toolchain.data import Samples
from toolchain.errors import Unsupported, UsageError
from toolchain.explain import quality
from toolchain.explain.heatmaps import METHODS, image_tail, logits_of, relevance
from toolchain.explain.quality import F32, F64, Fill, Watched
from toolchain.model import Model
from toolchain.profile import profile
from toolchain.session import run, session, with_outputs

FILLS: dict[str, Callable[[F32], Fill]] = {  # what goes turns into
    "mean": lambda x: x.mean(axis=(2, 3), keepdims=True),
    "noise": lambda x: None,
    "black": lambda x: 0.0,
}
RANDOM = "random"  # a map of noise, which every method should beat
AFFORDABLE = 1e12  # multiply-accumulates that all methods together may take: some ten seconds on one core
LEAST_IMAGES, MOST_IMAGES = 4, 64
WALKS = 300  # passes forward that the heatmaps of one image take: the path of integrated gradients, copies in noise
STEPS = 16  # of deletion and insertion


@dataclass(frozen=True)
class Judgement:
    """What one method's maps are worth, over n images.

    falling    probability of the class while regions go, most relevant first, [n, L + 1]
    deletion   area under its curve while pixels go, [n]: less is better
    insertion  area under its curve while pixels come, [n]: more is better
    gap        of completeness; None where a method does not share out a score
    iou        weighted IoU of what speaks for the class with the object, [n], or None where no masks are known
    pointing   whether the largest value is on the object, [n] in 0..1, or None
    """

    method: str
    falling: F64
    deletion: F64
    insertion: F64
    gap: float | None = None
    iou: F64 | None = None
    pointing: F64 | None = None

    @property
    def aopc(self) -> F64:
        """Area over the perturbation curve, [n]: more is better."""
        return quality.aopc(self.falling)


@dataclass(frozen=True)
class Judged:
    """All methods on the same images.

    methods  in the order of METHODS, then RANDOM
    chance   probabilities while regions go in random order, [orders, n, L + 1]
    lacking  {method: why it cannot be judged}
    region   pixels along a side of a region
    fill     what goes turns into, of FILLS
    """

    images: int
    methods: tuple[Judgement, ...]
    chance: F64
    lacking: Mapping[str, str]
    region: int
    fill: str


def judge(
    model: Model,
    samples: Samples,
    methods: Sequence[str] = (),
    *,
    at: str | None = None,
    orders: int = 5,
    region: int | None = None,
    fill: str = "mean",
    seed: int = 0,
    threads: int = 1,
    progress: Progress = lambda stage, done, total: None,
) -> Judged:
    """Every method's maps of these images, judged for the class that the network predicts.

    methods  (): all that the network has rules for
    at       the layer that class activation maps weigh
    orders   random orders of the regions
    fill     of FILLS

    Raises Unsupported where the network is no classifier of images, UsageError without images.
    """
    probe = probing(model, samples, region=region, fill=FILLS[fill], seed=seed, threads=threads)
    x, targets = probe.watched.images, probe.watched.targets
    found: list[Judgement] = []
    lacking: dict[str, str] = {}
    asked = list(methods or METHODS)
    for done, name in enumerate(asked):
        progress("quality", done, len(asked) + 1)
        try:
            shared = relevance(model, name, x, targets, layer=at, seed=seed, threads=threads)
        except Unsupported as error:
            lacking[name] = error.what
            continue
        method = METHODS[name]
        change = probe.own if method.is_scored else probe.own - probe.black if method.by_pixel else None
        gap = None if change is None else quality.completeness_gap(shared, change)
        found.append(judgement(probe, name, method.shown(shared), gap))
    progress("quality", len(asked), len(asked) + 1)
    found.append(judgement(probe, RANDOM, np.random.default_rng(seed).random((len(x), *x.shape[2:]))))
    chance = quality.random_perturbation(probe.watched, orders, region=probe.region, fill=probe.fill, seed=seed)
    progress("quality", len(asked) + 1, len(asked) + 1)
    return Judged(len(x), tuple(found), chance, lacking, probe.region, fill)


@dataclass(frozen=True)
class Probe:
    """What every method's maps are tried on, and how.

    own, black  the class's score before a softmax, at each image and at a black one, [n]
    """

    watched: Watched
    own: F64
    black: F64
    masks: NDArray[np.bool_] | None
    region: int
    fill: Fill
    seed: int


def probing(
    model: Model,
    samples: Samples,
    *,
    region: int | None = None,
    fill: Callable[[F32], Fill] = FILLS["mean"],
    seed: int = 0,
    threads: int = 1,
) -> Probe:
    """The images, watched by the probability of the class that the network predicts; raises as `judge` does."""
    logits = scores_of(model, threads)
    ((_, x),) = samples.inputs.items()
    if not len(x):
        raise UsageError(f"{samples.name} has no images")
    at_x, at_black = (in_parts(logits, v).astype(np.float64) for v in (x, np.zeros_like(x[:1])))
    targets = at_x.argmax(axis=1).astype(np.int64)
    watched = Watched(lambda images: softmax(logits(images)), x, targets)
    side = quality.eighth(watched.size) if region is None else region
    own, black = at_x[np.arange(len(x)), targets], at_black[0, targets]
    return Probe(watched, own, black, samples.masks, side, fill(x), seed)


def judgement(probe: Probe, name: str, maps: NDArray[np.floating], gap: float | None = None) -> Judgement:
    """One method's maps, by every measure."""
    watched, masks, fill, seed = probe.watched, probe.masks, probe.fill, probe.seed
    return Judgement(
        name,
        quality.region_perturbation(watched, maps, region=probe.region, fill=fill, seed=seed),
        quality.auc(quality.deletion(watched, maps, steps=STEPS, fill=fill, seed=seed)),
        quality.auc(quality.insertion(watched, maps, steps=STEPS)),
        gap,
        None if masks is None else quality.weighted_iou(quality.peaks(np.maximum(maps, 0)), masks),
        None if masks is None else quality.pointing(maps, masks),
    )


def images_for(model: Model, methods: int, orders: int) -> int:
    """How many images all of this is affordable for."""
    steps = quality.ACROSS**2 + 1
    passes = (methods + 1) * (steps + 2 * (STEPS + 1)) + orders * steps + WALKS
    return int(np.clip(AFFORDABLE // (passes * max(profile(model).macs, 1)), LEAST_IMAGES, MOST_IMAGES))


# ---- the network ---------------------------------------------------------------------------------------------------
def scores_of(model: Model, threads: int = 1) -> Callable[[F32], F32]:
    """Images to the scores before a softmax; raises Unsupported where the network is no classifier of images."""
    tail = image_tail(model)
    name, runner = str(tail.cut.name), session(with_outputs(model.ir, [str(logits_of(tail).name)]), threads)
    return lambda images: run(runner, {name: images})[0]


def in_parts(function: Callable[[F32], F32], images: F32) -> F32:
    """What a function of images is, so many at a time."""
    size = quality.LARGEST_BATCH
    return np.concatenate([function(images[i : i + size]) for i in range(0, len(images), size)])


def softmax(logits: F32) -> F64:
    """Probabilities, [n, classes]."""
    z = logits.astype(np.float64)
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)

"""Answers under masks, held to surgery.mask and a pass through the whole network at every step."""

from __future__ import annotations

import numpy as np
import pytest
from compress.networks import CLASSIFIERS, network, samples

from toolchain.compress.groups import Channels, Group, analyse
from toolchain.compress.surgery import mask
from toolchain.explain.masking import masked
from toolchain.explain.walking import Path, answers
from toolchain.model import Model
from toolchain.session import run, session

ROUNDING = 2e-5  # float32 sums in another order, relative to the largest answer


def random_path(groups: list[Group], steps: int = 4, seed: int = 0) -> Path:
    generator = np.random.default_rng(seed)
    orders = {g.name: generator.permutation(len(g)) for g in groups}
    return Path(orders, {g.name: np.linspace(0, len(g), steps).astype(np.int64) for g in groups})


def by_whole_passes(model: Model, channels: Channels, path: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """The same answers with everything run anew, [S, n, classes]."""
    found = []
    for s in range(path.steps):
        gone = [channels.group(g).units[o[: path.counts[g][s]]] for g, o in path.orders.items()]
        found.append(run(session(mask(model, channels, np.concatenate(gone)).ir), inputs)[0])
    return np.stack(found)


def by_parts(network: object, inputs: dict[str, np.ndarray], path: Path, like: np.ndarray, **memory: int) -> np.ndarray:
    found = np.full_like(like, np.nan)
    for step, part, y in answers(network, inputs, path, **memory):  # type: ignore[arg-type]
        found[step, part] = y
    return found


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_walk_equals_whole_passes_of_the_masked_network(name: str) -> None:
    model = network(name)
    channels = analyse(model)
    inputs = samples(model.inputs, 6, seed=3)
    chosen = [[g] for g in channels.groups if g.cuts] + [[g for g in channels.groups if g.cuts]]
    for groups in chosen:
        path = random_path(groups)
        expected = by_whole_passes(model, channels, path, inputs)
        found = by_parts(masked(model, channels, groups), inputs, path, expected)
        np.testing.assert_allclose(found, expected, atol=ROUNDING * np.abs(expected).max(), err_msg=groups[0].name)

"""The random split deals every image once, and siblings are found as their definition says."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="torch trains")
pytest.importorskip("benchmarks.reproduce", reason="run pytest from the repository root")

from benchmarks.reproduce.random_split import SIZES, at_random, with_sibling

ROWS = [{"file": f"{i}.jpg", "base_file": f"{i % 836}.jpg"} for i in range(1449)]


@pytest.mark.parametrize("seed", [0, 1])
def test_every_image_is_dealt_exactly_once(seed: int) -> None:
    parts = at_random(ROWS, seed)
    assert {name: len(part) for name, part in parts.items()} == SIZES
    assert sorted(r["file"] for part in parts.values() for r in part) == sorted(r["file"] for r in ROWS)


def test_another_seed_is_another_split() -> None:
    assert at_random(ROWS, 0) == at_random(ROWS, 0) != at_random(ROWS, 1)


def test_a_sibling_is_another_version_of_the_same_photograph_in_training() -> None:
    parts = at_random(ROWS, 0)
    wanted = [any(t["base_file"] == r["base_file"] for t in parts["train"]) for r in parts["test"]]
    assert with_sibling(parts["test"], parts["train"]).tolist() == wanted
    assert 0 < sum(wanted) < len(wanted)

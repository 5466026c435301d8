"""Measures of heatmaps against their definitions, one pixel, region and step at a time, and against laws."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from toolchain.errors import UsageError
from toolchain.explain import quality
from toolchain.explain.quality import Watched

N, C, H, W = 5, 2, 7, 9
GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.standard_normal((N, C, H, W)).astype(np.float32)
MAPS = GENERATOR.standard_normal((N, H, W))
TARGETS = np.arange(N) % 3
WEIGHTS = GENERATOR.standard_normal((C * H * W, 3))


def linear(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float64) @ WEIGHTS


def bent(images: np.ndarray) -> np.ndarray:
    """Not linear, so that the order of changes shows."""
    return np.tanh(linear(images) / 5) + 0.1 * linear(images) ** 2


WATCHED = Watched(bent, IMAGES, TARGETS)
CONTRIBUTIONS = np.stack(  # of each pixel to the target of a linear network, colours summed: its perfect heatmap
    [(x.reshape(-1) * WEIGHTS[:, t]).reshape(C, H, W).sum(axis=0) for x, t in zip(IMAGES, TARGETS, strict=True)]
)


# ---- against a mask or another heatmap -----------------------------------------------------------------------------
def test_the_iou_of_maps_without_negative_values_is_the_sum_of_minima_by_the_sum_of_maxima() -> None:
    a, b = np.abs(MAPS), np.abs(MAPS[::-1])
    for i, found in enumerate(quality.weighted_iou(a, b)):
        least = sum(min(a[i, r, c], b[i, r, c]) for r in range(H) for c in range(W))
        most = sum(max(a[i, r, c], b[i, r, c]) for r in range(H) for c in range(W))
        assert found == pytest.approx(least / most)


def test_the_iou_of_masks_is_the_intersection_by_the_union() -> None:
    a, b = MAPS > 0.3, MAPS[::-1] > 0
    wanted = [(p & q).sum() / (p | q).sum() for p, q in zip(a, b, strict=True)]
    np.testing.assert_allclose(quality.weighted_iou(a, b), wanted)


def test_a_map_overlaps_itself_wholly_and_its_negative_not_at_all() -> None:
    np.testing.assert_allclose(quality.weighted_iou(MAPS, MAPS), 1)
    assert (quality.weighted_iou(MAPS, -MAPS) == 0).all()
    left, right = np.abs(MAPS).copy(), np.abs(MAPS).copy()
    left[..., 4:], right[..., :4] = 0, 0
    assert (quality.weighted_iou(left, right) == 0).all()
    assert np.isnan(quality.weighted_iou(0 * MAPS, 0 * MAPS)).all()


def test_the_iou_has_no_order_and_no_scale_where_both_maps_share_it() -> None:
    other = MAPS[::-1]
    found = quality.weighted_iou(MAPS, other)
    np.testing.assert_allclose(quality.weighted_iou(other, MAPS), found)
    np.testing.assert_allclose(quality.weighted_iou(3 * MAPS, 3 * other), found)
    np.testing.assert_allclose(quality.weighted_iou(quality.shares(7 * MAPS), quality.shares(MAPS)), 1)


def test_shares_add_up_to_one_and_peaks_reach_it() -> None:
    np.testing.assert_allclose(np.abs(quality.shares(MAPS)).sum(axis=(1, 2)), 1)
    np.testing.assert_allclose(np.abs(quality.peaks(MAPS)).max(axis=(1, 2)), 1)
    assert not quality.shares(0 * MAPS).any() and not quality.peaks(0 * MAPS).any()


def test_equal_values_share_the_mean_of_their_ranks() -> None:
    values = GENERATOR.integers(5, size=40)
    order = sorted(values)
    wanted = [np.mean([i for i, v in enumerate(order) if v == value]) for value in values]
    np.testing.assert_allclose(quality.ranks(values), wanted)


def test_spearmans_correlation_is_pearsons_of_the_ranks() -> None:
    stats = pytest.importorskip("scipy.stats", reason="the oracle is scipy's")
    a, b = np.round(MAPS, 1), np.round(MAPS[::-1] + MAPS, 1)  # with ties
    wanted = [stats.spearmanr(p.ravel(), q.ravel()).statistic for p, q in zip(a, b, strict=True)]
    np.testing.assert_allclose(quality.rank_correlation(a, b), wanted, rtol=1e-12)


def test_a_rising_function_of_a_map_has_its_ranks_and_a_falling_one_the_opposite() -> None:
    np.testing.assert_allclose(quality.rank_correlation(MAPS, np.exp(MAPS)), 1)
    np.testing.assert_allclose(quality.rank_correlation(MAPS, -(MAPS**3)), -1)
    assert np.isnan(quality.rank_correlation(MAPS, np.ones_like(MAPS))).all()
    assert quality.rank_correlation(MAPS[:0], MAPS[:0]).shape == (0,)


def test_a_map_points_where_its_largest_value_is() -> None:
    masks = MAPS[::-1] > 0
    places = [np.unravel_index(m.argmax(), m.shape) for m in MAPS]
    assert quality.pointing(MAPS, masks).tolist() == [masks[i][p] for i, p in enumerate(places)]


def test_a_map_that_points_everywhere_hits_as_often_as_chance() -> None:
    masks = MAPS > 0.5
    np.testing.assert_allclose(quality.pointing(np.zeros_like(MAPS), masks), masks.mean(axis=(1, 2)))


@pytest.mark.parametrize("tolerance", [1, 1.5, 3])
def test_a_hit_may_lie_as_far_from_the_object_as_is_tolerated(tolerance: float) -> None:
    masks = np.zeros_like(MAPS, bool)
    masks[:, 2, 3] = masks[:, 6, 0] = True
    places = [np.unravel_index(m.argmax(), m.shape) for m in MAPS]
    wanted = [
        any(np.hypot(r - row, c - column) <= tolerance for r, c in np.argwhere(m))
        for m, (row, column) in zip(masks, places, strict=True)
    ]
    assert quality.pointing(MAPS, masks, tolerance).tolist() == wanted
    for row in range(H):
        for column in range(W):
            near = any(np.hypot(r - row, c - column) <= tolerance for r, c in np.argwhere(masks[0]))
            assert quality.widened(masks[0], tolerance)[row, column] == near


def test_a_box_is_true_from_its_first_corner_to_before_its_last() -> None:
    boxes = np.array([[0, 0, 9, 7], [2, 1, 5, 3], [4, 4, 4, 4]])
    found = quality.boxed(boxes, H, W)
    assert [m.sum() for m in found] == [63, 6, 0] and found[1, 1:3, 2:5].all()


def test_relevance_that_adds_up_has_no_gap_and_none_at_all_has_a_whole_one() -> None:
    change = linear(IMAGES)[np.arange(N), TARGETS]
    assert quality.completeness_gap(CONTRIBUTIONS, change) < 1e-12
    assert quality.completeness_gap(0 * CONTRIBUTIONS, change) == pytest.approx(1)


@pytest.mark.parametrize("measure", [quality.weighted_iou, quality.rank_correlation, quality.pointing])
def test_maps_of_two_sizes_are_an_error(measure) -> None:
    with pytest.raises(UsageError, match=r"\[5, 7, 9\] and \[5, 7, 8\]"):
        measure(MAPS, MAPS[:, :, :8])


# ---- what a network loses with the pixels --------------------------------------------------------------------------
def literal_perturbation(i: int, order: list[tuple[int, int]], side: int, replacement: np.ndarray) -> list[float]:
    """The scores of image i while regions with these corners are replaced one after the other."""
    x = IMAGES[i].copy()
    found = [bent(x[None])[0, TARGETS[i]]]
    for row, column in order:
        for r in range(row, min(row + side, H)):
            for c in range(column, min(column + side, W)):
                x[:, r, c] = replacement[:, r, c]
        found.append(bent(x[None])[0, TARGETS[i]])
    return found


@pytest.mark.parametrize("side", [1, 2, 4, 9])
def test_perturbation_replaces_region_after_region_most_relevant_first(side: int) -> None:
    found = quality.region_perturbation(WATCHED, MAPS, region=side, fill=0.5)
    corners = [(r, c) for r in range(0, H, side) for c in range(0, W, side)]
    for i in range(N):
        worth = {(r, c): MAPS[i, r : r + side, c : c + side].sum() for r, c in corners}
        order = sorted(corners, key=lambda corner: -worth[corner])
        wanted = literal_perturbation(i, order, side, np.full((C, H, W), 0.5, np.float32))
        np.testing.assert_allclose(found[i], wanted, rtol=1e-9)


def test_a_random_order_replaces_every_region_once_and_differs_from_image_to_image() -> None:
    found = quality.random_perturbation(WATCHED, 3, region=3, fill=0.0)
    assert found.shape == (3, N, 10)
    ends = bent(np.zeros_like(IMAGES))[np.arange(N), TARGETS]
    np.testing.assert_allclose(found[:, :, -1], np.tile(ends, (3, 1)))
    assert len({tuple(np.round(np.diff(s), 12)) for s in found.reshape(-1, 10)}) == 3 * N
    again = quality.random_perturbation(WATCHED, 3, region=3, fill=0.0)
    assert found.tobytes() == again.tobytes()


def test_noise_stays_within_the_images_and_is_the_same_for_every_heatmap_of_a_seed() -> None:
    seen: list[np.ndarray] = []
    watched = Watched(lambda x: (seen.append(x), bent(x))[1], IMAGES, TARGETS)
    for maps in (MAPS, -MAPS):
        quality.region_perturbation(watched, maps, region=2)
    last = [x[-1] for x in seen]  # of the last image every region is replaced
    np.testing.assert_array_equal(last[0], last[1])
    assert IMAGES.min() <= last[0].min() and last[0].max() <= IMAGES.max() and last[0].std() > 0.5
    other = quality.region_perturbation(WATCHED, MAPS, region=2, seed=1)
    assert not np.array_equal(other[:, 1:], quality.region_perturbation(WATCHED, MAPS, region=2)[:, 1:])


def test_fewer_steps_are_the_beginning_of_more() -> None:
    whole = quality.region_perturbation(WATCHED, MAPS, region=2)
    np.testing.assert_array_equal(quality.region_perturbation(WATCHED, MAPS, region=2, steps=4), whole[:, :5])
    assert quality.region_perturbation(WATCHED, MAPS, region=2, steps=1000).shape == whole.shape == (N, 4 * 5 + 1)


def test_curves_do_not_depend_on_the_parts_that_they_are_made_in(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = quality.region_perturbation(WATCHED, MAPS, region=2)
    sizes: list[int] = []
    watched = Watched(lambda x: (sizes.append(len(x)), bent(x))[1], IMAGES, TARGETS)
    monkeypatch.setattr(quality, "LARGEST_FEED", 13 * IMAGES[0].size)
    np.testing.assert_allclose(quality.region_perturbation(watched, MAPS, region=2), whole, rtol=1e-12)
    assert max(sizes) == 13


@pytest.mark.parametrize("side", [1, 3])
def test_on_a_linear_network_no_order_beats_that_of_its_contributions(side: int) -> None:
    watched = Watched(linear, IMAGES, TARGETS)
    best = quality.aopc(quality.region_perturbation(watched, CONTRIBUTIONS, region=side, fill=0.0))
    worst = quality.aopc(quality.region_perturbation(watched, -CONTRIBUTIONS, region=side, fill=0.0))
    others = [quality.region_perturbation(watched, m, region=side, fill=0.0) for m in (MAPS, -MAPS, MAPS**3)]
    chance = quality.random_perturbation(watched, 20, region=side, fill=0.0)
    for scores in (*others, *chance):
        assert (quality.aopc(scores) <= best + 1e-9).all() and (quality.aopc(scores) >= worst - 1e-9).all()


def test_the_aopc_is_the_mean_fall_over_all_steps_with_the_first() -> None:
    scores = quality.region_perturbation(WATCHED, MAPS, region=3)
    wanted = [sum(s[0] - v for v in s) / len(s) for s in scores]
    np.testing.assert_allclose(quality.aopc(scores), wanted)
    assert quality.aopc(np.ones((2, N, 4))).shape == (2, N)


@pytest.mark.parametrize("steps", [1, 4, 63])
def test_deletion_begins_at_the_image_and_ends_at_the_answer_to_its_baseline(steps: int) -> None:
    found = quality.deletion(WATCHED, MAPS, steps=steps, fill=0.25)
    assert found.shape == (N, steps + 1)
    ends = bent(np.full_like(IMAGES, 0.25))
    np.testing.assert_allclose(found[:, 0], bent(IMAGES)[np.arange(N), TARGETS])
    np.testing.assert_allclose(found[:, -1], ends[np.arange(N), TARGETS])


def test_each_step_of_deletion_takes_the_next_pixels_in_falling_order() -> None:
    found = quality.deletion(WATCHED, MAPS, steps=H * W)
    for i in range(N):
        order = sorted(((r, c) for r in range(H) for c in range(W)), key=lambda p: -MAPS[i][p])
        np.testing.assert_allclose(found[i], literal_perturbation(i, order, 1, np.zeros((C, H, W))), rtol=1e-9)
    turns = quality.pixel_turns(MAPS, 5)
    counts = np.bincount(turns[0].ravel())
    assert len(counts) == 5 and counts.max() - counts.min() <= 1
    for a, b in pairwise(range(5)):
        assert MAPS[0][turns[0] == a].min() >= MAPS[0][turns[0] == b].max()


def test_insertion_from_a_baseline_is_deletion_in_the_opposite_order_backwards() -> None:
    steps = H * W
    inserted = quality.insertion(WATCHED, MAPS, steps=steps, start=np.zeros_like(IMAGES))
    deleted = quality.deletion(WATCHED, -MAPS, steps=steps, fill=0.0)
    np.testing.assert_allclose(inserted, deleted[:, ::-1], rtol=1e-9)


def test_on_a_linear_network_the_best_map_has_the_least_deletion_and_the_most_insertion_area() -> None:
    watched = Watched(linear, IMAGES, TARGETS)
    for maps in (MAPS, -MAPS, -CONTRIBUTIONS):
        best, other = (quality.auc(quality.deletion(watched, m)) for m in (CONTRIBUTIONS, maps))
        assert (best <= other + 1e-9).all()
        start = np.zeros_like(IMAGES)
        best, other = (quality.auc(quality.insertion(watched, m, start=start)) for m in (CONTRIBUTIONS, maps))
        assert (best >= other - 1e-9).all()


def test_the_area_under_a_curve_is_that_of_its_trapezia() -> None:
    scores = GENERATOR.random((3, 4, 11))
    np.testing.assert_allclose(quality.auc(scores), np.trapezoid(scores, np.linspace(0, 1, 11), axis=-1))


def test_blurring_keeps_a_uniform_image_and_flattens_others() -> None:
    np.testing.assert_allclose(quality.blurred(np.full((1, 1, 8, 6), 0.7, np.float32)), 0.7, rtol=1e-6)
    assert (quality.blurred(IMAGES).std(axis=(1, 2, 3)) < 0.5 * IMAGES.std(axis=(1, 2, 3))).all()
    sharp = np.zeros((1, 1, 41, 41), np.float32)
    sharp[0, 0, 20, 20] = 1
    profile = quality.blurred(sharp, 3.0)[0, 0, 20]
    np.testing.assert_allclose(profile / profile[20], np.exp(-0.5 * ((np.arange(41) - 20) / 3) ** 2), atol=1e-5)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: quality.deletion(WATCHED, MAPS[:, :6]), r"heatmaps are \[5, 6, 9\], the images need \[5, 7, 9\]"),
        (lambda: quality.insertion(WATCHED, MAPS[:4]), r"the images need \[5, 7, 9\]"),
        (lambda: quality.region_perturbation(WATCHED, np.where(MAPS > 2, np.nan, MAPS)), "NaN"),
        (lambda: quality.region_perturbation(WATCHED, MAPS, region=0), "regions of 0 pixels"),
        (lambda: quality.region_perturbation(WATCHED, MAPS, region=10), "regions of 10 pixels"),
        (lambda: quality.deletion(WATCHED, MAPS, steps=0), "0 steps"),
        (lambda: Watched(bent, IMAGES[:0], TARGETS[:0]), "no images"),
        (lambda: Watched(bent, IMAGES[:, 0], TARGETS), "no images"),
        (lambda: Watched(bent, IMAGES, TARGETS[:3]), "for 5 images"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(make, told: str) -> None:
    with pytest.raises(UsageError, match=told) as refused:
        make()
    assert "\n" not in str(refused.value)

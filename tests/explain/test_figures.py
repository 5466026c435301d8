"""Figures hold the numbers that their words say: slow re-implementations, and laws between figures."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from compress.networks import network, samples

from toolchain.compress.groups import analyse
from toolchain.compress.inputs import attribute_input
from toolchain.compress.surgery import mask, prune
from toolchain.data import Samples
from toolchain.errors import Unsupported
from toolchain.evaluate import evaluate
from toolchain.explain import figures
from toolchain.explain.figure import Bars, Figure, Histogram, Lines, Panels, Series
from toolchain.explain.figures.inputs import overlaid
from toolchain.explain.heatmaps import METHODS, heatmaps
from toolchain.explain.units import Layer
from toolchain.profile import profile

NAMES = {2: "c", 0: "a", 1: "b"}
N = 24
MODEL = network("alexnet")
CHANNELS = analyse(MODEL)
GROUPS = [g for g in CHANNELS.groups if g.kind != "channel"]
DATA = Samples("held out", samples(MODEL.inputs, N, seed=2), np.arange(N) % 3, ("a", "b", "c"))
TRIAL = figures.Trial(MODEL, CHANNELS, DATA)


def made_up(group: int = -1, seed: int = 0) -> Layer:
    """A layer with random attributions: figures only read them."""
    generator = np.random.default_rng(seed)
    g = GROUPS[group]
    conditional = generator.standard_normal((5, 6, len(g)))
    live = np.arange(len(g)) % 4 != 1
    conditional[..., ~live] = 0
    return Layer(g, conditional, np.array([5, 6, 7, 0, 0]), live, 0.01, 16)


def lines_of(figure: Figure) -> dict[str, Series]:
    assert isinstance(figure.chart, Lines)
    return {s.name: s for s in figure.chart.series}


def accuracy_without(layer: Layer, units: np.ndarray) -> float:
    """In percent, by a masked copy of the whole network."""
    return 100 * evaluate(mask(MODEL, CHANNELS, layer.group.units[units]), DATA).share


# ---- units ---------------------------------------------------------------------------------------------------------
def test_the_unit_of_highest_rank_shows_its_expectations() -> None:
    layer = made_up()
    figure = figures.unit(layer, NAMES)
    best = max(range(len(layer.group)), key=lambda i: -layer.expected[-1, i])
    assert dict(figure.facts)["unit"] == best
    assert [(r["category"], r["y"]) for r in figure.rows] == [
        (n, pytest.approx(sum(layer.conditional[k, j, best] * c for k, c in enumerate((5, 6, 7))) / 18))
        for j, n in NAMES.items()
    ]


def test_a_group_of_bars_for_the_images_of_each_class_that_has_some() -> None:
    layer = made_up()
    figure = figures.conditional(layer, NAMES | {3: "none"})
    live = [i for i in range(len(layer.group)) if layer.is_live[i]]
    worst = min(live, key=lambda i: layer.rank[i])
    low = [r for r in figure.rows if str(r["panel"]).startswith(f"Unit {worst},")]
    assert {r["category"] for r in low} == {"a", "b", "c"} and len(low) == 3 * 4
    assert all(r["n"] == {"a": 5, "b": 6, "c": 7}[str(r["category"])] for r in low)
    number = {n: k for k, n in (NAMES | {3: "none"}).items()}
    for r in low:
        assert r["y"] == layer.conditional[number[str(r["category"])], number[str(r["series"])], worst]


def test_a_histogram_counts_every_live_unit_once() -> None:
    layer = made_up()
    figure = figures.rank_histogram(layer)
    assert isinstance(figure.chart, Histogram)
    live = layer.rank[layer.is_live]
    for row in figure.rows[:-1]:
        assert row["count"] == sum(row["from"] <= r < row["to"] for r in live)  # type: ignore[operator]
    assert figure.chart.counts.sum() == len(live)
    assert dict(figure.facts)["dead"] == (~layer.is_live).sum()


def test_a_histogram_of_dead_units_alone_is_empty() -> None:
    layer = made_up()
    dead = Layer(layer.group, 0 * layer.conditional, layer.counts, np.zeros(len(layer.group), bool), 0, 16)
    assert sum(int(str(r["count"])) for r in figures.rank_histogram(dead).rows) == 0


def test_both_panels_of_sorted_units_have_the_order_of_the_first_class() -> None:
    layer = made_up()
    panels = figures.sorted_units(layer, NAMES).chart
    assert isinstance(panels, Panels)
    own, other = (chart.series[0].y for chart in panels.charts)
    order = sorted(range(len(layer.group)), key=lambda i: -layer.conditional[2, 2, i])
    assert own.tolist() == [layer.conditional[2, 2, i] for i in order]
    assert other.tolist() == [layer.conditional[2, 0, i] for i in order]
    assert len(figures.sorted_units(layer, {1: "b"}).chart.charts) == 1  # type: ignore[union-attr]


def test_overlap_counts_the_lists_that_each_unit_leads() -> None:
    layer = made_up()
    figure = figures.overlap(layer, NAMES, share=0.3)
    top = dict(figure.facts)["top"]
    lists = [sorted(range(len(layer.group)), key=lambda i, k=k: layer.conditional[k, -1, i])[:top] for k in NAMES]  # type: ignore[misc]
    times = [sum(i in found for found in lists) for i in range(len(layer.group))]
    counted = {r["category"]: r["y"] for r in figure.rows if r["series"] == "units"}
    assert counted == {str(m): times.count(m) for m in (1, 2, 3)}
    assert sum(int(str(m)) * int(str(n)) for m, n in counted.items()) == 3 * int(str(top))


# ---- the network ---------------------------------------------------------------------------------------------------
def test_parameters_are_those_of_the_pruned_network() -> None:
    figure = figures.parameters(MODEL, CHANNELS, GROUPS)
    dense = profile(MODEL)
    assert [r["masked %"] for r in figure.rows] == list(range(50, 100, 5))
    for row in figure.rows:
        kept = [int(k) for k in str(row["units kept"]).split(" / ")]
        gone = np.concatenate([g.units[k:] for g, k in zip(GROUPS, kept, strict=True)])
        left = profile(prune(MODEL, CHANNELS, gone))
        assert (row["params left"], row["params cut"]) == (left.params, dense.params - left.params)
        assert row["macs cut %"] == pytest.approx(100 - 100 * left.macs / dense.macs, abs=0.005)
        for g, k in zip(GROUPS, kept, strict=True):
            assert abs(k - len(g) * (1 - float(str(row["masked %"])) / 100)) <= 0.5 or k == 1


def test_tables_count_the_data() -> None:
    rows = figures.class_counts(DATA, NAMES).rows
    assert [(r["class"], r["samples"]) for r in rows] == [("c", 8), ("a", 8), ("b", 8)]
    assert sum(float(str(r["share %"])) for r in rows) == pytest.approx(100, abs=0.02)
    (first, second) = figures.splits(MODEL, [DATA, DATA.first(5)]).rows
    assert (first["samples"], first["correct"]) == (N, evaluate(MODEL, DATA).correct)
    assert (second["samples"], second["correct"]) == (5, evaluate(MODEL, DATA.first(5)).correct)


def test_every_parameter_is_in_a_box_of_the_architecture() -> None:
    for name in ("alexnet", "residual", "attention"):
        rows = figures.architecture(network(name)).rows
        assert sum(int(str(r["params"])) for r in rows) == profile(network(name)).params


def test_samples_are_the_first_of_each_class_and_in_range() -> None:
    figure = figures.sample_images(DATA, NAMES)
    assert [(r["title"], r["sample"]) for r in figure.rows] == [("c", 2), ("a", 0), ("b", 1)]
    images = figure.chart.images  # type: ignore[union-attr]
    assert all(i.shape == (13, 13, 3) and i.min() >= 0 and i.max() <= 1 for i in images)
    assert "black to white" in figure.caption


def test_input_maps_colour_what_speaks_for_the_class_of_the_image() -> None:
    """Per image: the sum is that of eq. 1 for its own class, and the strongest pixels bear the colour of their sign."""
    figure = figures.input_maps(MODEL, DATA, NAMES, steps=128)
    assert "completeness gap" in figure.caption and "each pixel" in figure.caption
    x, steps = DATA.inputs["x"], dict(figure.facts)["steps"]
    for row, image, (k, i) in zip(figure.rows, figure.chart.images, [(2, 2), (0, 0), (1, 1)], strict=True):  # type: ignore[union-attr]
        own = attribute_input(MODEL, "x", {"x": x[i : i + 1]}, np.array([k]), target="loss", steps=int(str(steps)))
        pixels = -own.values[0, 0].sum(axis=0)
        assert row["sample"] == i
        assert row["sum of attributions"] == pytest.approx(pixels.sum(), abs=1e-3)
        assert row["log p(x) - log p(baseline)"] == pytest.approx(row["sum of attributions"], abs=0.1)
        assert image.shape == (*pixels.shape, 3) and image.min() >= 0 and image.max() <= 1
        strongest = np.unravel_index(np.abs(pixels).argmax(), pixels.shape)
        red, _, blue = image[strongest]
        assert (red > blue) == (pixels[strongest] > 0)


def test_heatmaps_stand_below_the_images_of_their_class() -> None:
    figure = figures.heatmap_grid(MODEL, DATA, NAMES, ("gradient-x-input", "grad-cam"), seed=1)
    picked = [2, 5, 0, 3, 1, 4]
    assert [(r["class"], r["sample"]) for r in figure.rows[:6]] == list(zip("ccaabb", picked, strict=True))
    x, labels = DATA.inputs["x"][picked], DATA.labels[picked]  # type: ignore[index]
    maps = heatmaps(MODEL, "gradient-x-input", x, labels)
    np.testing.assert_allclose([r["sum"] for r in figure.rows[:6]], maps.sum(axis=(1, 2)), rtol=1e-4)
    assert figure.chart.titles[:8] == ("c", "c", "a", "a", "b", "b", "gradient-x-input", "")  # type: ignore[union-attr]
    assert len(figure.chart.images) == 6 * 3 and figure.chart.columns == 6  # type: ignore[union-attr]
    assert "weigh the channels of 'relu4'" in figure.caption


def test_methods_without_a_rule_are_told_and_refused_where_they_are_asked_for() -> None:
    model = network("mixer")
    given = Samples("d", samples(model.inputs, 4), np.arange(4) % 2)
    figure = figures.heatmap_grid(model, given, {0: "a", 1: "b"})
    assert {r["method"] for r in figure.rows} == {m for m in METHODS if not m.startswith("lrp")}
    assert "No lrp-gamma: LayerNormalization 'layernormalization19' has no relevance rule" in figure.caption
    with pytest.raises(Unsupported, match="LayerNormalization 'layernormalization19' has no relevance rule"):
        figures.heatmap_grid(model, given, {0: "a"}, ("gradient", "lrp-gamma"))


def test_blocks_of_a_large_image_are_coloured_by_their_sums() -> None:
    image, a = np.zeros((3, 5, 7), np.float32), np.zeros((5, 7), np.float32)
    a[0, 0], a[1, 1], a[4, 6] = 3, -1, -2  # the block of the first two sums to 2; the last block is cut off
    drawn = overlaid(image, a, 2)
    assert (drawn[:2, :2] == drawn[0, 0]).all() and drawn[0, 0, 0] > drawn[0, 0, 2]
    assert drawn[4, 6, 2] > drawn[4, 6, 0]
    assert drawn[2, 3].std() < 1e-6


# ---- curves --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("group", range(len(GROUPS)))
@pytest.mark.parametrize("stride", [1, 3])
def test_a_prune_curve_equals_whole_passes_of_the_masked_network(group: int, stride: int) -> None:
    layer = made_up(group)
    found = lines_of(figures.prune_curve(TRIAL, layer, orders=0, stride=stride))
    for name, order in (("lowest rank first", layer.lowest_first), ("highest rank first", layer.lowest_first[::-1])):
        x, y = found[name].x, found[name].y
        assert x is not None and x[0] == 0 and x[-1] == len(order) and set(np.diff(x[:-1])) <= {stride}
        for n, accuracy in list(zip(x, y, strict=True))[:: max(1, 8 // stride)]:
            assert accuracy == pytest.approx(accuracy_without(layer, order[:n]))


def test_random_orders_lie_within_their_band_and_follow_the_seed() -> None:
    layer = made_up()
    curve = lambda **settings: lines_of(figures.prune_curve(TRIAL, layer, **settings))
    band = curve(orders=4, seed=3)["random, mean of 4"]
    assert band.low is not None and band.high is not None
    assert (band.low <= band.y).all() and (band.y <= band.high).all() and (band.low < band.high).any()
    np.testing.assert_array_equal(band.y, curve(orders=4, seed=3)["random, mean of 4"].y)
    assert (band.y != curve(orders=4, seed=4)["random, mean of 4"].y).any()
    assert band.y[0] == pytest.approx(100 * evaluate(MODEL, DATA).share)


def test_other_scores_change_the_order_of_a_prune_curve() -> None:
    layer = made_up()
    scores = np.arange(len(layer.group), dtype=np.float64)
    found = lines_of(figures.prune_curve(TRIAL, layer, rank=scores, orders=0))["lowest rank first"]
    for n in (1, 4, 7):
        assert found.y[n] == pytest.approx(accuracy_without(layer, np.arange(n)))


def test_classes_of_a_curve_add_up_to_its_accuracy_and_go_by_the_attribution_to_one() -> None:
    layer = made_up()
    found = [s.y for s in lines_of(figures.class_curves(TRIAL, layer, NAMES)).values()]
    order = np.argsort(-layer.conditional[2, 2], kind="stable")
    whole = [accuracy_without(layer, order[:n]) for n in range(len(order) + 1)]
    np.testing.assert_allclose(np.mean(found, axis=0), whole)  # as many of each class
    again = figures.class_curves(TRIAL, layer, {0: "a", 1: "b", 2: "c"}, about=2)
    np.testing.assert_array_equal(lines_of(again)["a (n = 8)"].y, found[1])


def test_one_layer_together_is_that_layer_alone() -> None:
    layers = [made_up(i) for i in range(len(GROUPS))]
    percents = (0, 30, 60, 90)
    alone = figures.layer_curves(TRIAL, layers, percents).chart
    assert isinstance(alone, Lines)
    for layer, series in zip(layers, alone.series, strict=True):
        joint = lines_of(figures.joint_curves(TRIAL, [layer], percents))["not retrained"]
        np.testing.assert_array_equal(series.y, joint.y)


def test_joint_curves_equal_whole_passes_of_the_masked_network() -> None:
    layers = [made_up(i) for i in range(len(GROUPS))]
    found = lines_of(figures.joint_curves(TRIAL, layers))["not retrained"]
    assert found.x is not None and found.x.tolist() == list(range(0, 100, 5))
    for percent, accuracy in list(zip(found.x, found.y, strict=True))[::4]:
        gone = []
        for layer in layers:
            kept = max(1, int(np.floor(len(layer.group) * (1 - percent / 100) + 0.5)))
            gone.append(layer.group.units[layer.lowest_first[: len(layer.group) - kept]])
        assert accuracy == pytest.approx(100 * evaluate(mask(MODEL, CHANNELS, np.concatenate(gone)), DATA).share)


def test_a_caller_can_add_a_series() -> None:
    figure = figures.joint_curves(TRIAL, [made_up()], (0, 50))
    more = figure.with_series([Series("retrained", np.array([90.0, 80.0]), np.array([0.0, 50.0]))])
    assert list(lines_of(more)) == ["not retrained", "retrained"] and len(more.rows) == 4
    assert len(figure.rows) == 2


def test_a_dear_path_says_how_many_units_it_masks_at_a_step() -> None:
    figure = figures.prune_curve(figures.Trial(MODEL, CHANNELS, DATA, most=1), made_up(0), orders=0)
    stride = dict(figure.facts)["stride"]
    assert isinstance(stride, int) and stride > 1 and f"{stride} units at a step" in figure.caption
    counts = lines_of(figure)["lowest rank first"].x
    assert counts is not None and {b - a for a, b in pairwise(counts[:-1])} == {stride}


@pytest.mark.parametrize("figure", [figures.unit, figures.conditional, figures.sorted_units, figures.overlap])
def test_captions_are_one_line_and_say_of_how_many(figure: object) -> None:
    caption = figure(made_up(), NAMES).caption  # type: ignore[operator]
    assert "\n" not in caption and "n = " in caption and caption.endswith(".")
    assert isinstance(figures.unit(made_up(), NAMES).chart, Bars)

"""Every method on the same images: each judgement by its own measure, and figures that hold the numbers they say."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from compress.networks import Net, network, samples

from toolchain.data import Samples
from toolchain.errors import Unsupported, UsageError
from toolchain.explain import figures, judging, quality
from toolchain.explain.figure import Bars, Lines
from toolchain.explain.heatmaps import METHODS, heatmaps
from toolchain.explain.judging import FILLS, RANDOM, judge
from toolchain.model import Model, save
from toolchain.ops import OPS

FEW = ("gradient", "integrated-gradients", "lrp-epsilon", "grad-cam")
N = 6


def pictures(model: Model, n: int = N, masked: bool = True) -> Samples:
    x = samples(model.inputs, n)
    h, w = next(iter(model.inputs.values()))[1:]
    masks = np.zeros((n, h, w), bool)
    masks[:, : h // 2] = True
    return Samples("some", x, None, masks=masks if masked else None)


MODEL = network("alexnet")
DATA = pictures(MODEL)
JUDGED = judge(MODEL, DATA, FEW, orders=3)


def answers(model: Model, x: np.ndarray, tmp_path) -> np.ndarray:  # type: ignore[no-untyped-def]
    save(model, tmp_path / "m.onnx", force=True)
    runner = ort.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    return runner.run(None, {next(iter(model.inputs)): x})[0]


def test_curves_begin_with_the_probability_of_the_predicted_class(tmp_path) -> None:
    z = answers(MODEL, DATA.inputs["x"], tmp_path).astype(np.float64)
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    for falling in (*(j.falling for j in JUDGED.methods), *JUDGED.chance):
        np.testing.assert_allclose(falling[:, 0], p.max(axis=1), rtol=1e-5)


def test_a_network_that_ends_in_a_softmax_is_judged_by_the_same_probabilities() -> None:
    net = Net(2, x=(1, 8, 8))
    net.op("Softmax", net.head(net.pooled(net.relu(net.conv("x", 4))), 3), axis=-1)
    model = net.model()
    data = pictures(model)
    (judged, _) = judge(model, data, ("gradient",), orders=0).methods
    scores = judging.scores_of(model)(data.inputs["x"]).astype(np.float64)
    assert not np.allclose(scores.sum(axis=1), 1)
    np.testing.assert_allclose(judged.falling[:, 0], judging.softmax(scores).max(axis=1), rtol=1e-6)


@pytest.mark.parametrize("fill", FILLS)
def test_a_judgement_is_what_each_measure_says_of_the_maps(fill: str) -> None:
    x = DATA.inputs["x"]
    scores = judging.scores_of(MODEL)
    targets = scores(x).argmax(axis=1)
    maps = heatmaps(MODEL, "lrp-epsilon", x, targets)
    filler = {"mean": x.mean(axis=(2, 3))[:, :, None, None], "noise": None, "black": 0.0}[fill]
    watched = quality.Watched(lambda v: judging.softmax(scores(v)), x, targets)
    judged = judge(MODEL, DATA, ("lrp-epsilon",), orders=1, fill=fill).methods[0]
    np.testing.assert_allclose(judged.falling, quality.region_perturbation(watched, maps, fill=filler))
    deleted = quality.auc(quality.deletion(watched, maps, steps=judging.STEPS, fill=filler))
    np.testing.assert_allclose(judged.deletion, deleted)
    np.testing.assert_allclose(judged.insertion, quality.auc(quality.insertion(watched, maps, steps=judging.STEPS)))
    assert judged.pointing is not None and DATA.masks is not None
    places = [np.unravel_index(m.argmax(), m.shape) for m in maps]
    assert judged.pointing.tolist() == [DATA.masks[i][p] for i, p in enumerate(places)]


def test_only_methods_that_share_out_a_score_have_a_completeness_gap() -> None:
    gaps = {j.method: j.gap for j in JUDGED.methods}
    assert list(gaps) == [*FEW, RANDOM]
    assert [m for m, gap in gaps.items() if gap is not None] == ["integrated-gradients", "lrp-epsilon"]
    assert gaps["integrated-gradients"] < 0.02  # 64 nodes along a path with kinks


def test_without_masks_what_needs_them_is_blank() -> None:
    judged = judge(MODEL, pictures(MODEL, masked=False), FEW[:1], orders=1)
    assert all(j.iou is None and j.pointing is None for j in judged.methods)
    table = figures.quality_table(judged, "some")
    assert all(r["IoU"] is None and r["pointing"] is None for r in table.rows) and "left blank" in table.caption


def test_a_method_without_a_rule_is_left_out_and_named() -> None:
    net = Net(2, x=(1, 6, 6))
    net.head(net.relu(net.dense(net.op("Flatten", "x"), 8)), 3)
    judged = judge(net.model(), pictures(net.model()), orders=1)
    assert [j.method for j in judged.methods] == [m for m in METHODS if not m.startswith("grad-cam")] + [RANDOM]
    for figure in (figures.perturbation(judged, "d"), figures.quality_table(judged, "d")):
        assert "No grad-cam: a class activation map needs a layer" in figure.caption


def test_what_is_no_classifier_of_images_or_has_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unsupported, match="images"):
        judge(network("mlp"), Samples("d", samples(network("mlp").inputs, 3), None))
    with pytest.raises(UsageError, match="some has no images"):
        judge(MODEL, DATA.first(0), FEW)
    monkeypatch.delitem(OPS, "Relu")
    assert set(judge(MODEL, DATA, FEW, orders=1).lacking) == set(FEW)


def test_a_dear_network_is_judged_on_fewer_images(monkeypatch: pytest.MonkeyPatch) -> None:
    assert judging.images_for(MODEL, 12, 5) == judging.MOST_IMAGES
    monkeypatch.setattr(judging, "AFFORDABLE", 1.0)
    assert judging.images_for(MODEL, 12, 5) == judging.LEAST_IMAGES


# ---- the figures ---------------------------------------------------------------------------------------------------
def test_the_aopc_of_the_table_is_the_mean_fall_of_the_line() -> None:
    figure = figures.perturbation(JUDGED, "some")
    assert isinstance(figure.chart, Lines)
    lines = {s.name: s.y for s in figure.chart.series}
    table = {str(r["method"]): r for r in figure.rows}
    assert list(lines) == list(table) == ["random, mean of 3", *FEW]
    for name, y in lines.items():
        assert table[name]["AOPC"] == pytest.approx(sum(y[0] - v for v in y) / len(y) / 100)
    spread = table["random, mean of 3"]
    assert spread["lowest"] <= spread["AOPC"] <= spread["highest"]  # type: ignore[operator]


def test_without_random_orders_only_methods_are_drawn() -> None:
    figure = figures.perturbation(judge(MODEL, DATA, FEW[:2], orders=0), "some")
    assert [r["method"] for r in figure.rows] == list(FEW[:2])


def test_the_table_of_quality_has_a_row_and_a_bar_for_each_method_best_first() -> None:
    figure = figures.quality_table(JUDGED, "some")
    assert sorted(str(r["method"]) for r in figure.rows) == sorted([*FEW, RANDOM])
    assert isinstance(figure.chart, Bars)
    (series,) = figure.chart.series
    assert series.y.tolist() == sorted(series.y, reverse=True)
    pairs = zip(figure.chart.categories, series.y.tolist(), strict=True)
    assert [(r["method"], r["AOPC"]) for r in figure.rows] == list(pairs)

"""Findings name kernels that are made up to deserve them, keep the best of each group, and are cut exactly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from compress.networks import Net, network, samples

from toolchain.compress.groups import analyse
from toolchain.compress.surgery import prune
from toolchain.data import Samples
from toolchain.errors import BadInput
from toolchain.explain import findings as module
from toolchain.explain.figure import Bars, Grid, Panels
from toolchain.explain.figures import class_kernels, findings_table, occurrence_maps
from toolchain.explain.figures.curves import Trial
from toolchain.explain.findings import Finding, as_row, findings, load_findings, removal
from toolchain.explain.layers import Activation, activations, hidden
from toolchain.explain.occurrence import Occurrence, class_selectivity, differences, kernel_selectivity, occurrences
from toolchain.model import Model
from toolchain.shipped import triangles_squares_path
from toolchain.synthetic import triangles_squares
from toolchain.verify import compare

ROOT = Path(__file__).parents[2]
RELU = Activation("made up", "y", 1, "Relu", is_zero=True)


def occurrence(*kernels: object, n: tuple[int, ...] = (100, 100, 100)) -> Occurrence:
    """Of shares [class][position] for each kernel."""
    shares = np.array(kernels, np.float64)
    counts = np.round(shares * np.array(n)[None, :, None]).astype(np.int64)
    return Occurrence("made up", counts, np.array(n), tuple("abc"[: len(n)]))


def flat(*shares: float) -> list[list[float]]:
    """The same share in each of two positions."""
    return [[s, s] for s in shares]


def by_kind(o: Occurrence, about: Activation = RELU, is_last: bool = False) -> dict[str, Finding]:
    return {f.kind: f for f in findings(o, about, is_last)}


# ---- kinds -----------------------------------------------------------------------------------------------------------
def test_each_kernel_is_named_once_for_what_it_is() -> None:
    o = occurrence(
        flat(0, 0, 0), flat(1, 1, 1), flat(0.5, 0.5, 0.51), flat(0.9, 0, 0), flat(0.85, 0, 0), flat(0, 0, 0.8)
    )
    found = by_kind(o)
    assert {k: f.units for k, f in found.items()} == {
        "dead": (0,),
        "always-on": (1,),
        "unselective": (2,),
        "redundant": (3, 4),
    }
    assert found["redundant"].keep == (3,) and found["redundant"].goes == (4,)
    assert found["always-on"].goes == () and all(f.why for f in found.values())


def test_a_kernel_that_never_fires_is_dead_only_where_it_hands_on_nothing() -> None:
    o = occurrence(flat(0, 0, 0), flat(0.9, 0.1, 0.5))
    assert "dead" in by_kind(o) and "dead" not in by_kind(o, Activation("made up", "y", 1, "Tanh"))


def test_in_a_redundant_group_every_pair_is_close_and_the_most_selective_stays() -> None:
    generator = np.random.default_rng(4)
    o = occurrence(*generator.choice([0.1, 0.15, 0.6, 0.9], (12, 3, 1)).tolist())
    found = by_kind(o)["redundant"]
    d, s = differences(o), kernel_selectivity(o)
    for group, kept in zip(found.groups, found.keep, strict=True):
        assert len(group) > 1 and kept in group and s[kept] == max(s[k] for k in group)
        assert max(d[a, b] for a in group for b in group) <= module.REDUNDANT
    assert len(set(found.units)) == len(found.units)


def test_a_layer_never_goes_whole() -> None:
    for o in (
        occurrence(flat(0, 0, 0), flat(0.5, 0.5, 0.5), flat(0.5, 0.5, 0.52)),
        occurrence(flat(0, 0, 0), flat(0, 0, 0)),
        occurrence(flat(0.9, 0, 0), flat(0.9, 0, 0)),
    ):
        goes = [u for f in findings(o, RELU, False) for u in f.goes]
        assert len(goes) == len(set(goes)) == len(o.counts) - 1


def test_classes_that_no_kernel_tells_are_named() -> None:
    o = occurrence(flat(0.9, 0.1, 0.1), flat(0.8, 0.1, 0.12))
    reach = np.abs(class_selectivity(o)).max(axis=(0, 2))
    assert by_kind(o).get("too-small") is None and (reach >= module.UNSEPARATED).all()
    assert by_kind(o, is_last=True)["too-shallow"].classes == ("b", "c")  # they are told by what does not fire
    weak = occurrence(flat(0.5, 0.4, 0.45), flat(0.1, 0.2, 0.15))
    assert by_kind(weak)["too-small"].classes == ("a", "b", "c") and "too-shallow" not in by_kind(weak)


def test_a_class_without_samples_is_blank_and_named() -> None:
    o = occurrence(flat(0.9, 0, 0.1), flat(0, 0, 0.8), n=(50, 0, 70))
    assert by_kind(o)["blank"].classes == ("b",)
    figure = occurrence_maps(o, {0: "a", 1: "b", 2: "c"})
    assert isinstance(figure.chart, Grid) and "No samples of b" in figure.caption
    assert np.isnan(figure.chart.maps[:, 1]).all() and figure.chart.across[1] == "b (no samples)"
    assert [r["mean"] for r in figure.rows if r["kernel"] == "0"] == [0.9, None, pytest.approx(0.1)]


def test_a_layer_where_all_is_well_is_sound() -> None:
    (one,) = findings(occurrence(flat(0.9, 0, 0.5), flat(0, 0.9, 0.1), flat(0.1, 0.3, 0.9)), RELU, True)
    assert one.kind == "sound" and one.goes == ()


# ---- for which images, not for how many ------------------------------------------------------------------------------
def dense(fires: np.ndarray, classes: int = 3) -> Occurrence:
    """Of units that fire for these images, [n, k]; classes take turns."""
    labels = np.arange(len(fires)) % classes
    counts = np.stack([fires[labels == c].sum(axis=0) for c in range(classes)], axis=1)
    return Occurrence("made up", counts, np.bincount(labels), tuple("abc"[:classes]), fires[:, None])


def by_chance(n: int, k: int, seed: int, rates: object = None) -> np.ndarray:
    """Units that fire for images drawn by chance, each for its own share of them, other shares for each class."""
    generator = np.random.default_rng(seed)
    rate = generator.random((3, k)) if rates is None else np.broadcast_to(np.array(rates)[:, None], (3, k))
    return generator.random((n, k)) < rate[np.arange(n) % 3]


def redundant(fires: np.ndarray) -> tuple[tuple[int, ...], ...]:
    found = by_kind(dense(fires)).get("redundant")
    return () if found is None else found.groups


def test_units_that_fire_as_often_but_for_other_images_are_not_redundant() -> None:
    """Every second image of a class, and the others: D is 0."""
    even = np.arange(600) // 3 % 2 == 0
    fires = np.stack([even, ~even], axis=1) & (np.arange(600) % 3 < 2)[:, None]
    assert not differences(dense(fires)).any() and redundant(fires) == ()
    assert redundant(fires[:, [0, 0]]) == ((0, 1),)


@pytest.mark.parametrize("rates", [(0.5, 0.4, 0.1), (0.97, 0.99, 0.85), (0.03, 0.01, 0.15)])
def test_units_that_fire_for_nearly_all_images_or_nearly_none_are_alike_only_if_they_agree_on_the_rest(
    rates: tuple[float, ...],
) -> None:
    fires = by_chance(1200, 12, 1, rates)
    assert differences(dense(fires)).max() < module.REDUNDANT and redundant(fires) == ()
    few = fires.copy()
    few[:2, 0] ^= True  # two images of 1200
    twins = redundant(np.concatenate([few, fires], axis=1))
    assert twins == tuple((k, k + 12) for k in range(12))


@pytest.mark.parametrize("n", [6, 12, 30, 100, 400])
def test_few_images_make_no_units_redundant_that_fire_by_chance(n: int) -> None:
    for seed in range(3):
        assert redundant(by_chance(n, 300, seed)) == ()


def test_a_unit_and_its_copies_at_any_scale_are_redundant_in_a_network() -> None:
    net = Net(4, x=(12,))
    layer = net.dense("x", 6)
    net.head(net.relu(layer), 3)
    weight, bias = (net.parameters[f"{layer}.{part}"] for part in ("weight", "bias"))
    assert weight.shape == (6, 12)
    weight[4], bias[4] = 3 * weight[1], 3 * bias[1]
    weight[5], bias[5] = weight[2], bias[2]
    model = net.model()
    labels = np.arange(400) % 3
    inputs = samples(model.inputs, 400)
    inputs["x"][np.arange(400), labels] += 2  # so that units tell classes
    (about,) = hidden(model)
    (o,) = occurrences(model, Samples("d", inputs, labels), [about.value])
    (found,) = (f for f in findings(o, about, False) if f.kind == "redundant")
    assert found.groups == ((1, 4), (2, 5)) and "400 images" in found.why


def test_kernels_that_fire_in_the_same_places_but_for_other_images_are_not_redundant() -> None:
    """In half of 4 places: every second image of a class, and the others; and a third that fires with the first."""
    even = np.arange(600) // 3 % 2 == 0
    there = np.array([True, False, True, False])
    seen = (np.arange(600) % 3 < 2)[:, None, None] & there[None, :, None]
    fires = np.stack([even, ~even, even], axis=1)[:, None] & seen  # [n, p, k]
    labels = np.arange(600) % 3
    counts = np.stack([fires[labels == c].sum(axis=0).T for c in range(3)], axis=1)
    o = Occurrence("made up", counts, np.bincount(labels), ("a", "b", "c"), fires)
    assert not differences(o).any()
    assert by_kind(o)["redundant"].groups == ((0, 2),)


def test_a_kernel_and_its_copies_at_any_scale_are_redundant_in_a_network() -> None:
    net = Net(4, x=(1, 8, 8))
    layer = net.conv("x", 6)
    net.head(net.pooled(net.relu(layer)), 3)
    weight, bias = (net.parameters[f"{layer}.{part}"] for part in ("weight", "bias"))
    weight[4], bias[4] = 3 * weight[1], 3 * bias[1]
    weight[5], bias[5] = weight[2], bias[2]
    model = net.model()
    labels = np.arange(400) % 3
    inputs = samples(model.inputs, 400)
    inputs["x"][np.arange(400), 0, labels] += 2  # so that kernels tell classes
    about = hidden(model)[0]
    (o,) = occurrences(model, Samples("d", inputs, labels), [about.value])
    (found,) = (f for f in findings(o, about, False) if f.kind == "redundant")
    assert found.groups == ((1, 4), (2, 5)) and "400 images" in found.why


def test_where_every_kernel_is_dead_none_is_redundant() -> None:
    fires = np.zeros((30, 4, 5), np.bool_)
    o = Occurrence("made up", np.zeros((5, 3, 4), np.int64), np.array([10, 10, 10]), ("a", "b", "c"), fires)
    assert by_kind(o).keys() == {"dead", "too-small"}


def test_disagreement_is_one_less_cohens_kappa_where_chance_is_no_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHANCE", 1e9)
    fires = by_chance(1500, 9, 2)
    fires[:, 7], fires[:, 8] = fires[:, 0], fires[:, 1] ^ (np.arange(1500) % 40 == 0)
    found = module.disagreement(fires[:, None])
    for a in range(9):
        for b in range(9):
            p, q = fires[:, a].mean(), fires[:, b].mean()
            observed, expected = (fires[:, a] == fires[:, b]).mean(), p * q + (1 - p) * (1 - q)
            kappa = (observed - expected) / (1 - expected)
            assert found[a, b] == pytest.approx(1 - kappa, abs=1e-6)  # float32


def test_agreement_that_counts_is_rarer_by_chance_than_the_level() -> None:
    """Held against the binomial distribution itself, for two units that fire for half of the images."""
    from scipy.stats import binom

    for n in range(2, 80):
        half = np.arange(n) % 2 == 0
        for d in range(0, n // 4 + 1):
            other = half.copy()
            other[: 2 * d : 2] ^= True
            assert (half != other).sum() == d
            pair = module.disagreement(np.stack([half, other], axis=1)[:, None])[0, 1]
            assert pair >= 1 or binom.cdf(d, n, 0.5) <= module.CHANCE


def test_kernels_with_places_are_compared_by_their_maps_alone_and_it_is_told_of_how_many_images() -> None:
    found = by_kind(occurrence(flat(0.9, 0, 0.5), flat(0.8, 0, 0.5), flat(0, 0.9, 0.2), n=(10, 10, 10)))["redundant"]
    assert found.groups == ((0, 1),) and "κ" not in found.why and "30 images" in found.why


# ---- what goes -------------------------------------------------------------------------------------------------------
def test_a_shared_channel_goes_only_where_every_layer_can_do_without() -> None:
    model = network("residual")
    channels = analyse(model)
    shared = [a for a in activations(model) if not a.is_answer]
    labels = {a.layer: channels.labels.of(channels.values[a.value], a.axis) for a in shared}
    one, other = next(
        (p, q) for p in labels for q in labels if p != q and np.array_equal(np.sort(labels[p]), np.sort(labels[q]))
    )
    alone = removal([Finding("dead", one, "", ((0, 1),)), Finding("sound", other, "")], model, channels)
    assert not len(alone.labels) and alone.stuck == {one: (0, 1)}
    both = [Finding("dead", one, "", ((0, 1),)), Finding("redundant", other, "", ((1, 2),), (2,))]
    assert removal(both, model, channels).labels.tolist() == [labels[one][1]]


def test_what_findings_name_is_cut_and_the_dead_make_no_difference() -> None:
    """Kernels with a bias so low that they never fire go, and the answers stay."""
    net = Net(2, x=(2, 6, 6))
    conv = net.conv("x", 6)
    net.parameters[f"{conv}.bias"][[1, 4]] = -1e3
    dense = net.dense(net.op("Flatten", net.op("MaxPool", net.relu(conv), kernel_shape=[2, 2], strides=[2, 2])), 9)
    net.parameters[f"{dense}.bias"][3] = -1e3
    net.head(net.relu(dense), 3)
    model = net.model()
    data = Samples("d", samples(model.inputs, 30), np.arange(30) % 3)
    about = hidden(model)
    found = [
        f for a, o in zip(about, occurrences(model, data, [a.value for a in about]), strict=True)
        for f in findings(o, a, False) if f.kind == "dead"
    ]  # fmt: skip
    assert found[0].units == (1, 4) and 3 in found[1].units
    channels = analyse(model)
    gone = removal(found, model, channels)
    assert not gone.stuck
    smaller = prune(model, channels, gone.labels)
    proof = compare(model, smaller, data.inputs, "MODEL")
    assert proof.passed
    widths = {n: v.shape[0] for n, v in smaller.graph.initializers.items() if n.endswith(".bias")}
    assert widths[f"{conv}.bias"] == 4 and widths[f"{dense}.bias"] == 9 - len(found[1].units)


# ---- figures ---------------------------------------------------------------------------------------------------------
def test_accuracies_without_kernels_are_those_of_a_masked_network() -> None:
    from toolchain.compress.surgery import mask
    from toolchain.evaluate import evaluate

    model = network("alexnet")
    channels = analyse(model)
    data = Samples("d", samples(model.inputs, 40), np.arange(40) % 3)
    about = hidden(model)[1]
    (o,) = occurrences(model, data, [about.value])
    group = next(g for g in channels.groups if g.name == about.layer)
    figure = class_kernels(o, about, Trial(model, channels, data), group, {0: "a", 2: "c"})
    assert isinstance(figure.chart, Panels)
    kernels, accuracies = figure.chart.charts
    assert isinstance(kernels, Bars) and isinstance(accuracies, Bars)
    s = class_selectivity(o).reshape(len(o.counts), len(o.classes), -1).mean(axis=2)
    labels = channels.labels.of(channels.values[about.value], about.axis)
    for i, c in enumerate((0, 2)):
        own = s[:, c] > 0
        assert [b.y[i] for b in kernels.series] == [len(own), own.sum(), (~own).sum()]
        for series, removed in zip(accuracies.series, (labels[:0], labels[~own], labels[own]), strict=True):
            of, right = evaluate(mask(model, channels, removed), data).per_class[c]
            assert series.y[i] == pytest.approx(100 * right / of)


def test_a_picture_of_many_kernels_shows_the_most_selective_and_says_so() -> None:
    generator = np.random.default_rng(6)
    o = occurrence(*generator.random((600, 3, 2)).round(2).tolist())
    figure = occurrence_maps(o, {0: "a", 1: "b", 2: "c"})
    assert isinstance(figure.chart, Grid)
    s = kernel_selectivity(o)
    shown = figure.chart.shown
    assert len(shown) == len(set(shown)) < 100 and f"the {len(shown)} of 600 kernels" in figure.caption
    assert min(s[list(shown)]) >= np.sort(s)[-len(shown)]
    assert len(figure.rows) == 600 * 3  # the numbers are of all


# ---- the file and the command ----------------------------------------------------------------------------------------
def jettison(*words: object) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "CI": "1"}
    command = [sys.executable, "-m", "toolchain.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=280, check=False)


def test_findings_go_from_explain_to_prune(tmp_path: Path) -> None:
    shipped = triangles_squares_path()
    x, y = triangles_squares(64, seed=5)
    np.savez(tmp_path / "data.npz", x=x, y=y, classes=np.array(["triangle", "square"]))
    explained = jettison(
        "explain", shipped, "--data", tmp_path / "data.npz", "--figures", "findings", "-o", tmp_path / "out"
    )
    assert explained.returncode == 0, explained.stderr
    file = tmp_path / "out" / "findings.json"
    words = ("prune", shipped, "--from-findings", file)
    done = jettison(*words, "-o", tmp_path / "small.onnx", "--plan-out", tmp_path / "plan.json")
    assert done.returncode == 0, done.stderr
    plan = json.loads((tmp_path / "plan.json").read_text())
    from toolchain.model import load

    model = load(shipped)
    channels = analyse(model)
    gone = set(removal(load_findings(file, model), model, channels).labels.tolist())
    removed = {u for g in plan["groups"] for u in channels.group(g["name"]).units[g["removed"]].tolist()}
    assert gone and gone <= removed == set(channels.closure(np.array(sorted(gone)))) & {
        u for g in channels.groups for u in g.units.tolist()
    }
    again = jettison("verify", shipped, tmp_path / "small.onnx", "--plan", tmp_path / "plan.json")
    assert again.returncode == 0, again.stderr
    both = jettison(*words, "--budget", "params<=50%", "-o", tmp_path / "no.onnx")
    assert both.returncode == 2 and both.stderr.count("\n") == 1 and not (tmp_path / "no.onnx").exists()


def written(model: Model, path: Path, *rows: dict[str, object]) -> Path:
    path.write_text(json.dumps({"model": {"sha256": model.sha256}, "rows": list(rows)}))
    return path


def test_a_file_of_findings_is_read_as_it_was_written(tmp_path: Path) -> None:
    model = network("alexnet")
    found = (
        Finding("redundant", "conv0", "why", ((0, 2), (1, 3)), (2, 1)),
        Finding("dead", "conv0", "0", ((4,),)),
        Finding("sound", "dense7", "fine"),
    )
    assert load_findings(written(model, tmp_path / "f.json", *map(as_row, found)), model) == found
    assert [dict(r) for r in findings_table(found).rows] == [as_row(f) for f in found]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"kind": "dead"}], "no findings.json"),
        ([as_row(Finding("dead", "conv0", "")) | {"units": "one"}], "no findings.json"),
        ([as_row(Finding("dead", "conv0", "")) | {"units": "-1"}], "no findings.json"),
        ([as_row(Finding("lazy", "conv0", ""))], "unknown kind of finding 'lazy'"),
    ],
)
def test_a_file_that_is_none_is_told(tmp_path: Path, rows: list[dict[str, object]], told: str) -> None:
    model = network("alexnet")
    with pytest.raises(BadInput, match=told):
        load_findings(written(model, tmp_path / "f.json", *rows), model)
    with pytest.raises(BadInput, match="the findings are of"):
        load_findings(written(network("mlp"), tmp_path / "g.json"), model)


def test_a_kernel_that_the_layer_does_not_have_is_told() -> None:
    model = network("alexnet")
    layer = hidden(model)[0].layer
    with pytest.raises(BadInput, match="none of number 999"):
        removal([Finding("dead", layer, "", ((999,),))], model, analyse(model))

"""Laws of estimates, against a literal re-implementation of the formula and against published runs."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from targets.board import Board, BoardError, Figure, Range
from targets.estimate import SPREAD, SUSTAINED, Size, Work, calibrated, estimate, kernels_of
from targets.kernels import KERNELS, Kernels


def figure(value: int) -> Figure:
    return Figure(value=value, source="s", confidence="low")


BOARD = Board(
    name="b", title="t", core="c", isa="i", endian="big", runner="none", kernels=("plain-c",), clock_hz=figure(10**8),
    l1d_bytes=figure(1 << 14), l2_bytes=figure(1 << 18), bandwidth_bytes_per_s=figure(10**9), ram_bytes=figure(1 << 22),
    flash_bytes=figure(1 << 20), cpi=Range(low=0.5, high=2.5, source="s", confidence="low"),
)  # fmt: skip
POINT = Kernels(
    "point", 4, {k: (v, v) for k, v in (("convolution", 2.0), ("depthwise", 5.0), ("dense", 3.0))}, (4, 4), ""
)


def drawn(seed: int, kinds: str = "convolution depthwise dense elementwise activation view") -> tuple[list[Work], Size]:
    draw = random.Random(seed)
    works = []
    for i in range(12):
        kind: Any = draw.choice(kinds.split())
        layer = kind in ("convolution", "depthwise", "dense")
        macs, weights = (draw.randrange(1, 10**6), draw.randrange(1, 10**5)) if layer else (0, 0)
        works.append(Work(str(i), kind, macs, draw.randrange(1, 10**5), draw.randrange(1, 10**5), weights))
    return works, Size(sum(w.weights for w in works), max(w.inputs + w.outputs for w in works))


def literal(works: list[Work], size: Size, board: Board, kernels: Kernels, end: int) -> float:
    """t = Σ max(instructions · CPI / f, bytes / bandwidth), one op after the other, every case written out."""
    assert board.clock_hz and board.cpi and board.bandwidth_bytes_per_s and board.l2_bytes
    cpi = [board.cpi.low, board.cpi.high][end]
    bandwidth = board.bandwidth_bytes_per_s.value * [1, SUSTAINED][end]
    t = 0.0
    for w in works:
        values = w.outputs if w.macs > 0 else max(w.inputs, w.outputs)
        if w.kind == "view":
            count, moved = 0.0, 0
        else:
            count = kernels.per_element[end] * values
            if w.kind == "activation" and end == 0:
                count = 0.0
            if w.kind in kernels.per_mac:
                count += kernels.per_mac[w.kind][end] * w.macs
            moved = w.weights + w.inputs + w.outputs
        if end == 0:
            moved = w.weights if size.weights * kernels.value_bytes > board.l2_bytes.value else 0
        elif (size.weights + size.arena) * kernels.value_bytes <= board.l2_bytes.value:
            moved = 0
        t += max(count * cpi / board.clock_hz.value, moved * kernels.value_bytes / bandwidth)
    return t * 1e9


@pytest.mark.parametrize("kernels", KERNELS.values(), ids=lambda k: k.name)
@pytest.mark.parametrize("cache", [1 << 12, 1 << 18, 1 << 26])
def test_an_estimate_is_the_formula_summed_over_ops(kernels: Kernels, cache: int) -> None:
    board = msgspec.structs.replace(BOARD, l2_bytes=figure(cache))
    for seed in range(8):
        works, size = drawn(seed)
        found = estimate(works, size, board, kernels)
        assert found.low_ns == pytest.approx(literal(works, size, board, kernels, 0))
        assert found.high_ns == pytest.approx(literal(works, size, board, kernels, 1))
        assert found.low_ns <= found.high_ns and found.grade == "estimated"


def test_more_work_never_takes_less_and_a_faster_board_never_longer() -> None:
    for seed in range(20):
        works, size = drawn(seed)
        first = estimate(works, size, BOARD, KERNELS["plain-c"])
        more = estimate([replace(w, macs=w.macs * 2) for w in works], size, BOARD, KERNELS["plain-c"])
        assert (more.low_ns, more.high_ns) >= (first.low_ns, first.high_ns) and more.high_ns >= first.high_ns
        for change in ({"clock_hz": figure(2 * 10**8)}, {"bandwidth_bytes_per_s": figure(10**10)}):
            faster = estimate(works, size, msgspec.structs.replace(BOARD, **change), KERNELS["plain-c"])
            assert faster.low_ns <= first.low_ns and faster.high_ns <= first.high_ns


@pytest.mark.parametrize("cpi", [0.3, 1.0, 4.0])
def test_a_run_of_one_model_gives_back_the_time_of_another(cpi: float) -> None:
    free = msgspec.structs.replace(BOARD, bandwidth_bytes_per_s=None)
    truth = msgspec.structs.replace(free, cpi=Range(low=cpi, high=cpi, source="s", confidence="high"))
    for seed in range(8):
        (works, size), (others, other) = (drawn(s, "convolution depthwise dense elementwise") for s in (seed, 99))
        known = calibrated(works, size, free, POINT, estimate(works, size, truth, POINT).low_ns, "run")
        assert known.cpi_of_fewest == known.cpi_of_most == pytest.approx(cpi)
        found = estimate(others, other, free, POINT, known)
        assert found.low_ns * SPREAD == pytest.approx(estimate(others, other, truth, POINT).low_ns)


@pytest.mark.parametrize("kernels", [POINT, *KERNELS.values()], ids=lambda k: k.name)
def test_a_calibrated_interval_holds_the_run_it_was_calibrated_with(kernels: Kernels) -> None:
    for seed in range(8):
        works, size = drawn(seed)
        run = estimate(works, size, BOARD, kernels).high_ns
        found = estimate(works, size, BOARD, kernels, calibrated(works, size, BOARD, kernels, run, "run"))
        assert found.low_ns == pytest.approx(run / SPREAD) and found.high_ns == pytest.approx(run * SPREAD)
        assert found.calibrated_by == "run"


def test_calibration_keeps_what_is_not_known_of_kernels_in_the_interval() -> None:
    heavy = [Work("c", "convolution", 10**7, 10, 10, 10)]
    light = [Work("d", "depthwise", 10**7, 10, 10, 10)]
    size = Size(10, 20)
    known = calibrated(heavy, size, BOARD, KERNELS["plain-c"], 1e9, "run")
    found = estimate(light, size, BOARD, KERNELS["plain-c"], known)
    conv, depth = (KERNELS["plain-c"].per_mac[k] for k in ("convolution", "depthwise"))
    assert found.low_ns == pytest.approx(1e9 * depth[0] / conv[0] / SPREAD, rel=1e-3)
    assert found.high_ns == pytest.approx(1e9 * depth[1] / conv[1] * SPREAD, rel=1e-3)


def test_weights_beyond_the_cache_bind_a_dense_layer_to_memory() -> None:
    works = [Work("d", "dense", 10**8, 10**4, 10**4, 10**8)]
    slow = msgspec.structs.replace(BOARD, bandwidth_bytes_per_s=figure(10**8), clock_hz=figure(10**10))
    found = estimate(works, Size(10**8, 2 * 10**4), slow, KERNELS["ort-neon-float32"])
    assert found.bound == "memory"
    assert found.low_ns == pytest.approx(4 * 10**8 / 10**8 * 1e9)


def test_without_a_bandwidth_nothing_is_said_of_what_binds() -> None:
    works, size = drawn(0)
    assert estimate(works, size, msgspec.structs.replace(BOARD, bandwidth_bytes_per_s=None), POINT).bound is None


@pytest.mark.parametrize(("in_place", "needed"), [(False, 4 * (1000 + 300)), (True, 4 * 300)])
def test_memory_fits_when_its_margin_is_not_negative(in_place: bool, needed: int) -> None:
    for available in (needed - 1, needed, needed + 1):
        board = msgspec.structs.replace(BOARD, in_place=in_place, ram_bytes=figure(available), flash_bytes=None)
        found = estimate([], Size(1000, 300), board, POINT)
        assert found.ram is not None and found.flash is None
        assert found.ram.margin_bytes == available - needed
        assert found.ram.fits == (available >= needed)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"clock_hz": None}, "b has no clock_hz to estimate with. Copy its descriptor to a .toml"),
        ({"clock_hz": None, "runner": "local"}, "jettison bench --target local"),
        ({"cpi": None}, "b has no cpi. Measure one model there"),
    ],
)
def test_a_figure_that_is_missing_is_named_with_a_way_out(change: dict[str, Any], told: str) -> None:
    works, size = drawn(0)
    with pytest.raises(BoardError) as caught:
        estimate(works, size, msgspec.structs.replace(BOARD, **change), POINT)
    assert told in str(caught.value)


def test_kernels_are_those_asked_for_or_the_first_of_the_board() -> None:
    assert kernels_of(BOARD).name == "plain-c" and kernels_of(BOARD, "cmsis-nn").name == "cmsis-nn"
    with pytest.raises(BoardError, match="there are no kernels 'cmsis'"):
        kernels_of(BOARD, "cmsis")
    with pytest.raises(BoardError, match="names no kernels"):
        kernels_of(msgspec.structs.replace(BOARD, kernels=()))


def test_a_run_faster_than_the_memory_allows_is_refused() -> None:
    works = [Work("d", "dense", 10**8, 10**4, 10**4, 10**8)]
    with pytest.raises(BoardError, match="less than the memory of b takes"):
        calibrated(works, Size(10**8, 20_000), BOARD, POINT, 1e6, "run")


def test_the_reference_models_have_the_published_numbers_of_products() -> None:
    """Banbury et al. 2021, "MLPerf Tiny Benchmark", and the models' own summaries: 12.5, 2.7, 7.5 and 0.26 M."""
    from benchmarks.mlperf_tiny import MODELS

    macs = {name: sum(w.macs for w in works) / 1e6 for name, works in MODELS.items()}
    assert macs == pytest.approx({"ic": 12.5, "kws": 2.66, "vww": 7.49, "ad": 0.264}, rel=0.005)


def test_one_row_of_a_board_predicts_its_others_within_fifteen_percent_and_the_interval_holds_nine_of_ten() -> None:
    """Published MLPerf Tiny rows; the board and the predicted model were seen by no fit."""
    from benchmarks.estimates import left_out, summary
    from benchmarks.mlperf_tiny import submissions

    for same_kernels in (True, False):
        line = summary("", left_out(submissions(), same_kernels=same_kernels, unseen_model=True), 0)
        assert float(str(line["median error %"])) <= 15
        assert float(str(line["covered %"])) >= 90

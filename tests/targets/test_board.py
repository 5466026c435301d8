"""Laws of descriptors: every figure has a source, and a wrong file is told apart in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from targets.board import Board, BoardError, Figure, Range, board, boards
from targets.kernels import KERNELS

ASKED = (
    "host raspberry-pi-4 zynq-ultrascale zynq-7000 snapdragon-801 jetson-orin-nano pic64-hpsc rad750 rad5545 gr740 "
    "gr712rc samv71 stm32h7 stm32l4r5 qemu-a53 qemu-a72"
)
SAID = 'source = "s"\nconfidence = "low"\n'
BARE = 'name = "{}"\ntitle = "t"\ncore = "c"\nisa = "i"\nendian = "big"\nrunner = "none"\n'


def written(folder: Path, text: str, name: str = "mine") -> str:
    path = folder / f"{name}.toml"
    path.write_text(BARE.format(name) + text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", ASKED.split())
def test_a_board_that_was_asked_for_has_a_descriptor(name: str) -> None:
    assert board(name).name == name


@pytest.mark.parametrize("found", boards().values(), ids=lambda b: b.name)
def test_every_figure_says_where_it_is_from_and_every_kernel_exists(found: Board) -> None:
    assert all(figure.source and figure.confidence for figure in found.facts().values())
    assert set(found.kernels) <= set(KERNELS)
    if found.cpi is not None and "no published" in found.cpi.source:
        assert found.cpi.confidence == "low"


@pytest.mark.parametrize("found", boards().values(), ids=lambda b: b.name)
def test_sizes_are_of_the_order_that_their_names_promise(found: Board) -> None:
    for key, low, high in (
        ("clock_hz", 50e6, 5e9),
        ("l1d_bytes", 0, 1 << 20),
        ("bandwidth_bytes_per_s", 1e8, 1e12),
        ("ram_bytes", 1 << 16, 1 << 38),
        ("cores", 1, 64),
    ):
        figure = getattr(found, key)
        assert figure is None or low <= figure.value <= high, key


def test_a_figure_that_is_not_known_is_absent_and_not_zero() -> None:
    assert board("host").facts() == {}
    assert board("rad750").bandwidth_bytes_per_s is None
    assert board("gr712rc").l2_bytes == Figure(value=0, source=board("gr712rc").l2_bytes.source, confidence="high")  # type: ignore[union-attr]


def test_the_last_level_of_cache_is_unknown_where_nobody_says_whether_there_is_a_second() -> None:
    assert board("rad750").cache_bytes() is None
    assert board("gr712rc").cache_bytes() == 16 << 10
    assert board("jetson-orin-nano").cache_bytes() == 4 << 20


def test_a_file_of_ones_own_is_a_board(tmp_path: Path) -> None:
    found = board(written(tmp_path, '[cpi]\nlow = 1\nhigh = 2\nsource = "mine"\nconfidence = "low"\n'))
    assert found.cpi == Range(low=1.0, high=2.0, source="mine", confidence="low")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("clokc_hz = 3\n", "it has no key 'clokc_hz'. Did you mean 'clock_hz'"),
        ("[clock_hz]\nvalu = 3\n" + SAID, "[clock_hz] has no key 'valu'. Did you mean 'value'"),
        ("[cpi]\nlo = 1\nhigh = 2\n" + SAID, "[cpi] has no key 'lo'. Did you mean 'low'"),
        ('[[runtimes]]\nname = "ort"\npackge = "p"\n', "[runtimes] has no key 'packge'. Did you mean 'package'"),
        ("[clock_hz]\nvalue = 3\n", "clock_hz: Object missing required field `source`"),
        ('[clock_hz]\nvalue = 3\nsource = "s"\nconfidence = "sure"\n', "clock_hz.confidence"),
        ("[clock_hz]\nvalue = 0\n" + SAID, "clock_hz is 0"),
        ("[clock_hz]\nvalue = -1\n" + SAID, "clock_hz.value"),
        ("[cpi]\nlow = 2\nhigh = 1\n" + SAID, "high 1 is below low 2"),
        ("[cpi]\nlow = 0\nhigh = 1\n" + SAID, "cpi.low"),
        ("= 3\n", "is no TOML"),
    ],
)
def test_a_wrong_descriptor_is_told_by_file_and_key_in_one_line(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(BoardError) as caught:
        board(written(tmp_path, text))
    assert told in str(caught.value) and "mine.toml" in str(caught.value) and "\n" not in str(caught.value)


def test_a_descriptor_is_called_as_its_file(tmp_path: Path) -> None:
    path = tmp_path / "other.toml"
    path.write_text(BARE.format("mine"))
    with pytest.raises(BoardError, match="Call it as its file"):
        board(str(path))


@pytest.mark.parametrize("name", ["rad75", "../boards/rad750", "", "-oProxyCommand=x", "nowhere/mine.toml"])
def test_a_board_that_is_not_there_is_told_with_a_way_out(name: str) -> None:
    with pytest.raises(BoardError, match=r"there is no board|No such file"):
        board(name)

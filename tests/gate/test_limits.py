"""Laws of limits: the grammar of numbers, one limit of a thing, each with its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from gate.files import configured

from toolchain.errors import UsageError
from toolchain.gate.limits import Limit, limits

HEAD = '[[budget]]\nmodel = "net.onnx"\n'


def read(folder: Path, text: str, baseline: str | None = None) -> tuple[Limit, ...]:
    return limits(configured(folder, text), baseline)


@pytest.mark.parametrize(
    ("line", "bound"),
    [
        ("flash = 5", 5),
        ('flash = "5"', 5),
        ('flash = "16 MiB"', 16 * 1024 * 1024),
        ('flash = "16MB"', 16_000_000),
        ('ram = "1.5 KiB"', 1536),
        ('ram = "2 kB"', 2000),
        ("params = 4_000_000", 4_000_000),
        ('params = "4_000_000"', 4_000_000),
        ('macs = "2.5 G"', 2.5e9),
        ("macs = 1.5e3", 1500),
        ('instructions = "40 M"', 40e6),
        ('instructions = { max = "40 M", target = "qemu-a72" }', 40e6),
        ('latency = { max = "25 ms", tolerance = "0%" }', 25e6),
        ('latency = { max = "2 s" }', 2e9 * 1.15),
        ("accuracy = { min = 0.85 }", 0.85),
    ],
)
def test_a_limit_is_in_its_quantitys_own_unit(line: str, bound: float, tmp_path: Path) -> None:
    (found,) = read(tmp_path, HEAD + line)
    assert found.bound == pytest.approx(bound, rel=1e-12)
    assert found.line == 3 and found.path == tmp_path / "net.onnx"


def test_an_entry_without_a_model_is_of_the_configurations_own(tmp_path: Path) -> None:
    (found,) = read(tmp_path, '[model]\npath = "dense.onnx"\n[[budget]]\nflash = 1\n')
    assert found.model == "dense.onnx"


BAD = {
    "no budget": ('[model]\npath = "a"\n', "has no [[budget]]: nothing would be checked"),
    "an empty list": ("budget = []\n", "has no [[budget]]"),
    "an empty budget": (HEAD, ":1: [[budget]] limits nothing"),
    "no model": ("[[budget]]\nflash = 1\n", ":1: [[budget]] names no model"),
    "zero": (HEAD + "flash = 0\n", ":3: flash: '0' leaves nothing"),
    "negative": (HEAD + 'ram = "-2 MiB"\n', ":3: ram: '-2 MiB' leaves nothing"),
    "unknown unit": (HEAD + 'flash = "10 MBs"\n', "unknown unit 'MBs'. Use B kB KiB MB MiB"),
    "a unit of another quantity": (HEAD + 'flash = "10 ms"\n', "unknown unit 'ms'"),
    "time without a unit": (HEAD + "latency = { max = 25 }\n", "unknown unit 'none'. Use ns us"),
    "a share": (HEAD + 'flash = "30%"\n', "shares of a baseline go into regress"),
    "no number": (HEAD + 'flash = "small"\n', "cannot read 'small'. Write it like 16 MiB"),
    "nothing": (HEAD + 'flash = ""\n', "cannot read ''"),
    "two numbers": (HEAD + 'flash = "1 2 MiB"\n', "cannot read '1 2 MiB'"),
    "infinity": (HEAD + "params = inf\n", "cannot read 'inf'"),
    "not a number": (HEAD + "params = nan\n", "cannot read 'nan'"),
    "beyond floats": (HEAD + "params = 1" + "0" * 400 + "\n", "leaves nothing"),
    "accuracy in percent": (HEAD + "accuracy = { min = 85 }\n", ":3: accuracy min: 85 is no share of 0 to 1"),
    "accuracy of nan": (HEAD + "accuracy = { min = nan }\n", "nan is no share"),
    "a negative drop": (HEAD + "accuracy = { max_drop = -0.1 }\n", "-0.1 is no share"),
    "tolerance": (HEAD + 'latency = { max = "1 ms", tolerance = "0.15" }\n', "cannot read the share '0.15'"),
    "growth": (HEAD + 'regress = { flash = "2", baseline = "b" }\n', ":3: regress flash: cannot read the share '2'"),
    "growth of time": (HEAD + 'regress = { latency = "2%" }\n', ":3: regress latency: a time of another day"),
    "growth of accuracy": (HEAD + 'regress = { accuracy = "2%" }\n', "Write accuracy = { max_drop = 0.01 }"),
    "growth beyond nothing": (HEAD + 'regress = { flash = "2%" }\n', "regress flash: has no baseline. Give --baseline"),
    "a drop beyond nothing": (HEAD + "accuracy = { max_drop = 0.01 }\n", "accuracy max_drop: has no baseline"),
    "twice": (HEAD + "flash = 1\n" + HEAD + "flash = 2\n", ":6: flash of net.onnx is limited twice, here and at"),
    "twice by another name": (HEAD + "flash = 1\n[[budget]]\nmodel = './net.onnx'\nflash = 2\n", "limited twice"),
    "twice on a target": (
        HEAD + "latency = { max = '1 s' }\n" + HEAD + "latency = { max = '2 s', stat = 'p90' }\n",
        "latency@local of net.onnx is limited twice",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_limit_that_cannot_be_read_is_exit_2_with_its_line(name: str, tmp_path: Path) -> None:
    text, told = BAD[name]
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text)
    assert told in str(caught.value) and str(tmp_path / "jettison.toml") in str(caught.value)
    assert caught.value.exit_code == 2


def test_targets_and_models_apart_may_each_be_limited(tmp_path: Path) -> None:
    text = HEAD + "instructions = { max = 1, target = 'a' }\n" + HEAD + "instructions = { max = 1, target = 'b' }\n"
    assert [limit.name for limit in read(tmp_path, text)] == ["instructions@a", "instructions@b"]


def test_a_given_baseline_stands_for_those_of_the_file(tmp_path: Path) -> None:
    text = HEAD + 'regress = { flash = "2%", baseline = "main.json" }\n'
    assert read(tmp_path, text)[0].baseline == str(tmp_path / "main.json")
    assert read(tmp_path, text, "git:main:b.json")[0].baseline == "git:main:b.json"

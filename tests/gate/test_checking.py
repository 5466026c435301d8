"""Laws of the gate: figures are those of the file, a verdict follows its figure, and a way out gets there."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import onnx
import pytest
from gate.files import MACS, PARAMS, RAM, configured, net, ran
from onnx import numpy_helper

from toolchain.cli import cli
from toolchain.emit import to_tflite
from toolchain.errors import BadInput, Unsupported, UsageError
from toolchain.gate.checking import check
from toolchain.gate.limits import limits
from toolchain.gate.verdicts import message
from toolchain.model import load
from toolchain.shipped import triangles_squares_path

HEAD = '[[budget]]\nmodel = "net.onnx"\n'


def figures(folder: Path, text: str) -> dict[str, float]:
    return {k: f.value for k, f in ran(folder, text).subjects[0].figures.items()}


def test_counts_are_those_told_by_hand(tmp_path: Path) -> None:
    path = net(tmp_path / "net.onnx")
    text = HEAD + "flash = 1\nram = 1\nparams = 1\nmacs = 1\n"
    wanted = {"flash": path.stat().st_size, "ram": RAM, "params": PARAMS, "macs": MACS}
    assert figures(tmp_path, text) == wanted


def test_flash_counts_what_lies_beside_the_file(tmp_path: Path) -> None:
    model = onnx.load(net(tmp_path / "whole.onnx"))
    onnx.save(model, tmp_path / "net.onnx", save_as_external_data=True, location="net.bin", size_threshold=0)
    told = figures(tmp_path, HEAD + "flash = 1\n")["flash"]
    assert told == (tmp_path / "net.onnx").stat().st_size + (tmp_path / "net.bin").stat().st_size


def test_counts_of_a_tflite_file_are_those_of_its_network(tmp_path: Path) -> None:
    to_tflite(load(net(tmp_path / "dense.onnx"))).write(tmp_path / "net.tflite")
    found = figures(tmp_path, '[[budget]]\nmodel = "net.tflite"\nflash = 1\nparams = 1\nram = 1\n')
    ram = 4 * (48 + 48)  # TFLite Micro's RESHAPE copies what the convolution wrote
    assert found == {"flash": (tmp_path / "net.tflite").stat().st_size, "params": PARAMS, "ram": ram}


def test_products_of_a_tflite_file_are_refused_and_not_passed(tmp_path: Path) -> None:
    to_tflite(load(net(tmp_path / "dense.onnx"))).write(tmp_path / "net.tflite")
    with pytest.raises(Unsupported, match="not counted"):
        ran(tmp_path, '[[budget]]\nmodel = "net.tflite"\nmacs = 1\n')


@pytest.mark.parametrize(("bound", "status"), [(PARAMS, "passed"), (PARAMS - 1, "failed"), (PARAMS + 1, "passed")])
def test_a_limit_holds_up_to_itself(bound: int, status: str, tmp_path: Path) -> None:
    net(tmp_path / "net.onnx")
    (verdict,) = ran(tmp_path, HEAD + f"params = {bound}\n").verdicts
    assert verdict.status == status


def test_a_failure_says_by_how_much_what_is_largest_and_where(tmp_path: Path) -> None:
    net(tmp_path / "net.onnx", dense="the_head")
    (verdict,) = ran(tmp_path, HEAD + f"\nparams = {PARAMS - 2}\n").verdicts
    told = message(verdict)
    assert (
        f"is {PARAMS}, at most {PARAMS - 2} is allowed: 2 (" in told and "Gemm 'the_head' with 245 parameters" in told
    )
    assert verdict.limit.place == f"{tmp_path / 'jettison.toml'}:4"


def test_a_model_that_is_missing_or_broken_is_no_pass(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file"):
        ran(tmp_path, HEAD + "flash = 100_000\n")
    (tmp_path / "net.onnx").write_bytes(b"<html>")
    with pytest.raises(BadInput, match="not an ONNX model"):
        ran(tmp_path, HEAD + "flash = 100_000\n")
    (tmp_path / "net.tflite").write_bytes(b"\x1c\0\0\0TFL3" + bytes(40))
    with pytest.raises(BadInput, match="TFLite"):
        ran(tmp_path, '[[budget]]\nmodel = "net.tflite"\nflash = 100_000\n')


def test_what_is_skipped_says_so_and_everything_may_not_be(tmp_path: Path) -> None:
    net(tmp_path / "net.onnx")
    text = HEAD + "flash = 1\nparams = 1000\n"
    checked = ran(tmp_path, text, skip=("flash",))
    assert [v.status for v in checked.verdicts] == ["skipped", "passed"] and not checked.failed
    with pytest.raises(UsageError, match="everything is skipped: flash, params"):
        ran(tmp_path, text, skip=("flash", "params"))


# ---- ways out -------------------------------------------------------------------------------------------------------
def followed(way_out: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Do as a way out says."""
    tool, *words = shlex.split(way_out.removeprefix("Run: ").split("; or accept")[0])
    assert tool == "jettison"
    monkeypatch.chdir(folder)
    cli.main(args=words, standalone_mode=False, obj={"arguments": words, "quiet": True})


@pytest.mark.parametrize(
    "lines",
    ["params = 100_000", 'flash = "500 KiB"', 'macs = "15 M"\nram = "200 KiB"\nparams = 120_000'],
    ids=str.split,
)
def test_the_way_out_of_a_failure_gets_there(lines: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "rover's net; $(x).onnx"  # quoted as a shell needs it
    (tmp_path / name).write_bytes(triangles_squares_path().read_bytes())
    checked = ran(tmp_path, f'[[budget]]\nmodel = "{name}"\n{lines}\n')
    (way_out,) = {v.way_out for v in checked.failed}
    followed(way_out, monkeypatch, tmp_path)
    smaller = next(p.name for p in tmp_path.glob("*-smaller.onnx"))
    assert not ran(tmp_path, f'[[budget]]\nmodel = "{smaller}"\n{lines}\n').failed


def test_the_way_out_ranks_on_data_where_there_are_some(tmp_path: Path) -> None:
    net(tmp_path / "net.onnx")
    text = '[data]\ncalibration = "c.npz"\n' + HEAD + "params = 3\n"
    (verdict,) = ran(tmp_path, text).verdicts
    assert f"compress {tmp_path / 'net.onnx'} --data {tmp_path / 'c.npz'} --budget 'params<=3'" in verdict.way_out


# ---- what it loads --------------------------------------------------------------------------------------------------
def test_counting_loads_no_runtime(tmp_path: Path) -> None:
    import subprocess

    net(tmp_path / "net.onnx")
    configured(tmp_path, HEAD + "flash = 1\nram = 1\nparams = 1\nmacs = 1\n")
    code = (
        "import sys\nfrom toolchain.cli import cli\n"
        "try: cli.main(args=['check'], standalone_mode=False, obj={'arguments': []})\n"
        "except Exception as e: print(type(e).__name__)\n"
        "print({'onnxruntime', 'torch', 'scipy', 'matplotlib', 'ai_edge_litert', 'rich', 'PIL'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.stdout.splitlines()[-2:] == ["GateFailed", "set()"]


def test_the_file_is_read_by_the_name_it_has_beside_its_configuration(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    net(tmp_path / "inner" / "net.onnx")
    file = configured(tmp_path / "inner", HEAD + "params = 1000\n")
    assert not check(file, limits(file)).failed


def test_parameters_that_no_node_reads_count_as_onnx_counts_them(tmp_path: Path) -> None:
    path = net(tmp_path / "net.onnx")
    weights = onnx.load(path).graph.initializer
    assert figures(tmp_path, HEAD + "params = 1\n")["params"] == sum(numpy_helper.to_array(t).size for t in weights)

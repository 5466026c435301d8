"""jettison bench as people type it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_cli import SHIPPED, jettison

QUICK = ("bench", SHIPPED, "--runs", "5", "--warmup", "1")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    file = tmp_path_factory.mktemp("bench") / "rows.json"
    done = jettison(*QUICK, "--ops", "--save", file)
    assert done.returncode == 0, done.stderr
    assert "measured" in done.stdout and "share %" in done.stdout and f"wrote {file}" in done.stdout
    return json.loads(file.read_text())


def changed(rows: list[dict[str, Any]], folder: Path, **change: Any) -> Path:
    """The rows in a file, of another time."""
    path = folder / "rows.json"
    path.write_text(json.dumps([row | change for row in rows]))
    return path


def test_saved_rows_hold_the_host_every_sample_and_each_op(rows: list[dict[str, Any]]) -> None:
    (row,) = rows
    assert row["host"]["machine"] and len(row["samples_ns"]) == row["runs"] and row["grade"] == "measured"
    assert {op["op"] for op in row["ops"]} >= {"MaxPool", "Gemm"}


def test_a_model_that_was_much_faster_before_is_a_regression(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    before = changed(rows, tmp_path, ns=rows[0]["ns"] | {"p50": 1}, noise=0.0)
    done = jettison(*QUICK, "--compare", before, "--tolerance", "50%")
    assert done.returncode == 1 and "slower" in done.stderr and "before ms" in done.stdout


def test_a_model_that_was_much_slower_before_passes(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    before = changed(rows, tmp_path, ns=rows[0]["ns"] | {"p50": 10**12}, noise=0.0)
    done = jettison(*QUICK, "--compare", before, "--format", "json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    assert found["grade"] == "measured" and found["slower"] is False


@pytest.mark.parametrize(
    ("change", "told"), [({"grade": "counted"}, "grade was counted"), ({"target": "qemu-a53"}, "target was qemu-a53")]
)
def test_another_grade_or_target_is_not_compared(
    rows: list[dict[str, Any]], tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    done = jettison(*QUICK, "--compare", changed(rows, tmp_path, **change))
    assert done.returncode == 2 and told in done.stderr


def test_another_answer_on_another_processor_is_an_error_with_the_difference(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import targets.virtual
    from targets.virtual import Trial
    from toolchain.cli.measuring import try_out
    from toolchain.errors import RunnerFailed

    sampling = {"threads": 1, "inputs": None, "off_by": 1e-5}
    same = Trial("net.onnx", "ort", "qemu-user-a53", None, "0", False, 1e-7, True)
    other = Trial("odd.onnx", "ort", "qemu-user-a53", None, "1", False, 0.25, False)
    monkeypatch.setattr(targets.virtual, "measure_user", lambda *_, **__: [same])
    try_out("qemu-user-a53", [], sampling, "table")
    monkeypatch.setattr(targets.virtual, "measure_user", lambda *_, **__: [same, other])
    with pytest.raises(RunnerFailed, match=r"odd.onnx: .* by 0\.25"):
        try_out("qemu-user-a53", [], sampling, "table")
    assert "odd.onnx" in capsys.readouterr().out


def test_saving_replaces_nothing_without_force(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text("mine")
    done = jettison(*QUICK, "--save", tmp_path / "rows.json")
    assert done.returncode != 0 and (tmp_path / "rows.json").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--target", "rad750"), 2, "targets estimate"),
        (("--target", "raspberry-pi-4"), 2, "ssh://user@host"),
        (("--target", "nowhere"), 2, "no board 'nowhere'"),
        (("--target", "ssh://-oProxyCommand=true"), 2, "not a host name"),
        (("--target", "ssh://obc:99999"), 2, "port"),
        (("--tolerance", "much"), 2, "Write it like 15%"),
        (("--tolerance", "-5%"), 2, "Write it like 15%"),
        (("--tolerance", "nan%"), 2, "Write it like 15%"),
        (("--runs", "0"), 2, "--runs"),
        (("--compare", "absent.json"), 3, "no such file"),
        (("--compare", SHIPPED), 3, "no rows of jettison bench"),
        (("--inputs", "absent.npz"), 3, "no such file"),
        (("--runtime", "litert"), 6, "cannot load"),
    ],
)
def test_a_mistake_is_one_line_with_a_way_out(words: tuple[str, ...], code: int, told: str, tmp_path: Path) -> None:
    done = jettison("bench", SHIPPED, "--runs", "1", "--warmup", "0", *words, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert told in done.stderr and done.stderr.count("\n") == 1

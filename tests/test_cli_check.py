"""jettison check and init as pipelines run them: exit codes, one line on stderr, files whole or not at all."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest
from gate.files import MACS, PARAMS, net
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cli import ROOT, jettison

from toolchain.gate.beginning import quoted, written

HEAD = '[[budget]]\nmodel = "net.onnx"\n'
HOLDS = HEAD + f"params = {PARAMS}\nmacs = {MACS}\n"
FAILS = HEAD + f"params = {PARAMS - 1}\nmacs = {MACS}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A network and a budget that it keeps to."""
    net(tmp_path / "net.onnx")
    (tmp_path / "jettison.toml").write_text(HOLDS)
    return tmp_path


def test_a_budget_that_is_held_is_exit_0_and_one_that_is_not_is_exit_1(folder: Path) -> None:
    done = jettison("check", cwd=folder)
    assert done.returncode == 0 and not done.stderr and "ok" in done.stdout
    (folder / "jettison.toml").write_text(FAILS)
    done = jettison("check", cwd=folder)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "jettison: error: 1 of 2 budgets failed: params of net.onnx. "
        f"Run: jettison prune net.onnx --budget 'params<={PARAMS - 1}' -o net-smaller.onnx"
    ]
    assert "jettison.toml:3: params of net.onnx is" in done.stdout


def test_output_for_machines_is_nothing_else_on_stdout(folder: Path) -> None:
    (folder / "jettison.toml").write_text(FAILS)
    done = jettison("check", "--format", "json", cwd=folder)
    assert done.returncode == 1 and json.loads(done.stdout)["passed"] is False


def test_a_folder_without_a_configuration_says_how_to_make_one(tmp_path: Path) -> None:
    done = jettison("check", cwd=tmp_path)
    assert done.returncode == 2 and "there is no jettison.toml here. Write one with jettison init MODEL" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--config", "other.toml"), 3, "other.toml: no such file"),
        (("--config", "."), 3, "is a folder"),
        (("--skip", "flahs"), 2, "flahs"),
        (("--skip", "params", "--skip", "macs"), 2, "everything is skipped"),
        (("--format", "yaml"), 2, "yaml"),
        (("--report", "junit"), 2, "cannot read the report 'junit'"),
        (("--report", "=x"), 2, "cannot read the report '=x'"),
        (("--report", "xml=x"), 2, "Write FORMAT=FILE with one of table, json"),
        (("--report", "junit=net.onnx"), 2, "net.onnx exists"),
        (("--report", "junit=missing/x"), 3, "no such folder"),
        (("--save-baseline", "net.onnx"), 2, "net.onnx exists"),
        (("--baseline", "missing.json"), 3, "missing.json: no such file"),
        (("--baseline", "git:--exec=x:y"), 2, "cannot read the baseline"),
        (("--baseline", "net.onnx"), 3, "is no baseline"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(words: tuple[str, ...], code: int, told: str, folder: Path) -> None:
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    done = jettison("check", *words, cwd=folder)
    assert done.returncode == code and told in done.stderr and len(done.stderr.splitlines()) == 1
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_reports_are_written_whether_the_gate_holds_or_not(folder: Path) -> None:
    (folder / "jettison.toml").write_text(FAILS)
    done = jettison("check", "--report", "junit=out.xml", "--report", "sarif=out.sarif", cwd=folder)
    assert done.returncode == 1
    assert ElementTree.parse(folder / "out.xml").getroot().attrib["failures"] == "1"
    assert json.loads((folder / "out.sarif").read_text())["version"] == "2.1.0"


def test_a_saved_baseline_is_what_the_next_run_compares_with(folder: Path) -> None:
    (folder / "jettison.toml").write_text(HEAD + 'regress = { params = "0%", baseline = "base.json" }\n')
    assert jettison("check", cwd=folder).returncode == 3
    done = jettison("check", "--save-baseline", "base.json", cwd=folder)
    assert done.returncode == 0 and "skipped" in done.stdout
    figures = json.loads((folder / "base.json").read_text())["models"]["net.onnx"]["figures"]
    assert figures["params"] == PARAMS and figures["macs"] == MACS
    assert figures["flash"] == (folder / "net.onnx").stat().st_size
    assert jettison("check", cwd=folder).returncode == 0
    net(folder / "net.onnx", classes=6)
    done = jettison("check", cwd=folder)
    assert done.returncode == 1 and f"(it was {PARAMS}, 0 % more may pass)" in done.stdout
    assert jettison("check", "--save-baseline", "base.json", "--force", cwd=folder).returncode == 0
    assert jettison("check", cwd=folder).returncode == 0


# ---- where pipelines are odd ----------------------------------------------------------------------------------------
def without_reader(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    """A run whose stdout nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "toolchain.cli", *words]
    process = subprocess.Popen(command, cwd=folder, stdout=writing, stderr=subprocess.PIPE, env=environment)
    os.close(writing)
    return process


@pytest.mark.parametrize(("text", "code"), [(HOLDS, 0), (FAILS, 1)])
def test_a_reader_that_goes_away_hides_no_failure(text: str, code: int, folder: Path) -> None:
    (folder / "jettison.toml").write_text(text)
    with without_reader(folder, "check") as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == code and b"Traceback" not in said and b"Exception" not in said


@pytest.mark.parametrize(("text", "code"), [(HOLDS, 0), (FAILS, 1)])
def test_a_closed_stdout_hides_no_failure(text: str, code: int, folder: Path) -> None:
    (folder / "jettison.toml").write_text(text)
    command = f"exec {sys.executable} -m toolchain.cli check >&-"
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == code and "Traceback" not in done.stderr


def test_another_locale_and_no_terminal_change_nothing(folder: Path) -> None:
    plain = jettison("check", cwd=folder)
    other = jettison(
        "check", cwd=folder, LC_ALL="C", LANG="C", PYTHONUTF8="0", PYTHONIOENCODING="", NO_COLOR="1", TERM=""
    )
    assert other.returncode == 0, other.stderr
    assert other.stdout == plain.stdout


def test_paths_with_spaces_accents_and_a_leading_dash_work(folder: Path) -> None:
    odd = folder / "a b" / "ü"
    odd.mkdir(parents=True)
    net(odd / "-net.onnx")
    (odd / "-c.toml").write_text('[[budget]]\nmodel = "-net.onnx"\nparams = 1000\n')
    assert jettison("check", "--config", odd / "-c.toml", cwd=folder).returncode == 0
    assert jettison("check", "--config=-c.toml", cwd=odd).returncode == 0


def test_the_step_summary_of_github_is_appended_to(folder: Path) -> None:
    summary = folder / "summary.md"
    summary.write_text("before\n")
    done = jettison("check", "--format", "github", cwd=folder, GITHUB_STEP_SUMMARY=str(summary))
    assert done.returncode == 0 and done.stdout.startswith("::notice")
    assert summary.read_text().startswith("before\n<!-- jettison check -->\n")
    assert jettison("check", "--format", "github", cwd=folder, GITHUB_STEP_SUMMARY="").returncode == 0
    assert jettison("check", cwd=folder, GITHUB_STEP_SUMMARY="/nowhere/x").returncode == 0


@pytest.mark.parametrize("name", ["/nowhere/summary.md", "."])
def test_a_summary_that_cannot_be_written_is_one_line(name: str, folder: Path) -> None:
    done = jettison("check", "--format", "github", cwd=folder, GITHUB_STEP_SUMMARY=name)
    assert done.returncode == 3 and done.stderr.startswith("jettison: error: GITHUB_STEP_SUMMARY")


@pytest.mark.parametrize(
    ("variable", "value", "code"),
    [
        ("JETTISON_CHECK_FORMAT", "json", 0),
        ("JETTISON_CHECK_FORMAT", "yaml", 2),
        ("JETTISON_CHECK_CONFIG", "no.toml", 3),
    ],
)
def test_variables_are_read_where_the_command_line_says_nothing(
    variable: str, value: str, code: int, folder: Path
) -> None:
    done = jettison("check", cwd=folder, **{variable: value})
    assert done.returncode == code, done.stderr
    assert code or json.loads(done.stdout)["passed"]
    words = ("--format", "table") if variable.endswith("FORMAT") else ("--config", "jettison.toml")
    assert jettison("check", *words, cwd=folder, **{variable: value}).returncode == 0


# ---- init -----------------------------------------------------------------------------------------------------------
def test_what_init_writes_is_held_today(folder: Path) -> None:
    (folder / "jettison.toml").unlink()
    assert jettison("init", "net.onnx", cwd=folder).returncode == 0
    done = jettison("check", cwd=folder)
    assert done.returncode == 0 and done.stdout.count("ok") == 4
    text = (folder / "jettison.toml").read_text()
    budget = tomllib.loads(text)["budget"][0]
    assert budget["params"] == PARAMS * 11 // 10 and budget["macs"] == MACS * 11 // 10


def test_init_never_replaces_a_file_unasked(folder: Path) -> None:
    done = jettison("init", "net.onnx", cwd=folder)
    assert done.returncode == 2 and "jettison.toml exists. Use --force" in done.stderr
    assert (folder / "jettison.toml").read_text() == HOLDS
    assert jettison("init", "net.onnx", "--force", "--head-room", "0", cwd=folder).returncode == 0
    assert jettison("check", cwd=folder).returncode == 0


def test_init_writes_the_path_as_its_file_sees_it(folder: Path) -> None:
    (folder / "ci").mkdir()
    assert jettison("init", "net.onnx", "-o", "ci/jettison.toml", cwd=folder).returncode == 0
    assert jettison("check", "--config", "ci/jettison.toml", cwd=folder).returncode == 0


def test_every_comment_of_init_is_right_when_it_is_uncommented(folder: Path) -> None:
    """The keys are known, and of their types."""
    from toolchain.config import read_config
    from toolchain.gate.limits import limits

    text = written(folder / "net.onnx", folder / "new.toml", 0.1, {"x": (1, 2, 4, 4)})
    lines = [line.removeprefix("# ") if " = " in line else line for line in text.splitlines()]
    (folder / "new.toml").write_text("\n".join(lines))
    file = read_config(folder / "new.toml")
    assert file is not None and file.config.model.input == {"x": (1, 2, 4, 4)}
    found = {f"{limit.quantity} {limit.kind}" for limit in limits(file)}
    assert {"instructions most", "latency most", "accuracy least", "macs growth"} <= found


def test_every_comment_of_init_is_right_when_it_alone_is_uncommented(folder: Path) -> None:
    from toolchain.config import read_config
    from toolchain.gate.limits import limits

    lines = written(folder / "net.onnx", folder / "new.toml", 0.1, {}).splitlines()
    comments = [i for i, line in enumerate(lines) if re.match("# [a-z]+ = ", line)]
    plain = tomllib.loads("\n".join(lines))
    assert len(comments) == 10
    for i in comments:
        text = "\n".join([*lines[:i], lines[i].removeprefix("# "), *lines[i + 1 :]])
        (folder / "new.toml").write_text(text)
        file = read_config(folder / "new.toml")
        assert file is not None and limits(file) and tomllib.loads(text) != plain


def test_init_says_what_samples_look_like(folder: Path) -> None:
    assert ".npz with x [n, 2, 4, 4] and y [n]" in written(folder / "net.onnx", folder / "new.toml", 0.1, {})


@given(st.text(st.characters(exclude_categories=["Cs"])))
@settings(max_examples=200)
def test_any_text_is_read_back_from_toml(text: str) -> None:
    assert tomllib.loads(f"x = {quoted(text)}") == {"x": text}

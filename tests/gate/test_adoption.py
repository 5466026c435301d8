"""Laws of what pipelines take over: the action and the hook call the command that there is, and inputs stay words."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gate.files import PARAMS, net

yaml = pytest.importorskip("yaml", reason="reads the action and the hook; ruff's and pytest's packages do not bring it")
ROOT = Path(__file__).parents[2]


def steps() -> list[dict[str, Any]]:
    return yaml.safe_load((ROOT / "action.yml").read_text())["runs"]["steps"]


def test_no_script_of_the_action_is_made_of_inputs() -> None:
    """What stands in ${{ }} becomes part of the program, whatever it says."""
    assert all("${{" not in step.get("run", "") for step in steps())


def test_every_input_of_the_action_is_used() -> None:
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    assert all(f"inputs.{name} }}}}" in (ROOT / "action.yml").read_text() for name in action["inputs"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A network with a budget, and a jettison on the path."""
    net(tmp_path / "net.onnx")
    (tmp_path / "jettison.toml").write_text(f'[[budget]]\nmodel = "net.onnx"\nparams = {PARAMS}\nmacs = 1\n')
    program = tmp_path / "bin" / "jettison"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m toolchain.cli "$@"\n')
    program.chmod(0o755)
    return tmp_path


def checked(folder: Path, **inputs: str) -> subprocess.CompletedProcess[str]:
    """The action's step as a runner starts it."""
    script = next(step["run"] for step in steps() if step.get("id") == "check")
    names = {"CONFIG": "", "BASELINE": "", "SKIP": "", "COMMENT": "", "SARIF": "", "JUNIT": ""}
    told = {"GITHUB_OUTPUT": str(folder / "output"), "GITHUB_STEP_SUMMARY": str(folder / "summary"), "CI": "true"}
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    command = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", script]
    environment = {**os.environ, **names, **inputs, **told, "PATH": path}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("skip", "code", "passed"), [("macs latency", 0, "true"), ("", 1, "false")])
def test_the_action_fails_as_the_command_does_and_says_so(skip: str, code: int, passed: str, folder: Path) -> None:
    done = checked(folder, SKIP=skip, JUNIT="out.xml", COMMENT="comment.md")
    assert done.returncode == code, done.stderr
    assert (folder / "output").read_text() == f"passed={passed}\n"
    assert (folder / "comment.md").read_text() == (folder / "summary").read_text()
    assert (folder / "out.xml").exists()


@pytest.mark.parametrize("value", ["$(touch ran)", "; touch ran", "--format=json", "`touch ran`", "a b"])
def test_an_input_is_never_more_than_a_word(value: str, folder: Path) -> None:
    done = checked(folder, CONFIG=value)
    assert done.returncode == 3 and "no such file" in done.stderr
    assert not (folder / "ran").exists()


def test_the_hook_runs_the_command_on_files_that_it_judges() -> None:
    import re

    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert hook["entry"] == "jettison check" and hook["pass_filenames"] is False
    taken = [n for n in ("a/b.onnx", "c.tflite", "jettison.toml", "x/pyproject.toml") if re.search(hook["files"], n)]
    assert len(taken) == 4 and not re.search(hook["files"], "notes-jettison.toml.md")

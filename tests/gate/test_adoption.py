"""Laws of what pipelines take over: the action, run as GitHub's runner does it, and the hook."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from gate.files import MACS, PARAMS, net

yaml = pytest.importorskip("yaml", reason="reads the action and the hook; ruff's and pytest's packages do not bring it")
ROOT = Path(__file__).parents[2]
BUDGET = f'[[budget]]\nmodel = "net.onnx"\nparams = 1000\nmacs = {MACS}\nregress = {{ params = "5%" }}\n'


def action() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "action.yml").read_text())


def test_no_script_of_the_action_is_made_of_inputs() -> None:
    """What stands in ${{ }} becomes part of the program, whatever it says."""
    assert all("${{" not in step.get("run", "") for step in action()["runs"]["steps"])


def test_every_input_of_the_action_is_used() -> None:
    text = (ROOT / "action.yml").read_text()
    assert all(f"inputs.{name} }}}}" in text for name in action()["inputs"])


# ---- the action -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Done:
    """What a job sees of the action after it ran."""

    code: int
    outputs: dict[str, str]
    stdout: str
    stderr: str
    summary: str


def filled(text: str, inputs: dict[str, str], outputs: dict[str, dict[str, str]]) -> str:
    """What stands in ${{ }}: inputs, and outputs of steps."""

    def value(match: re.Match[str]) -> str:
        first, *rest = match[1].split(".")
        return inputs[rest[0]] if first == "inputs" else outputs[rest[0]].get(rest[2], "")

    return re.sub(r"\$\{\{ ([\w.-]+) \}\}", value, text)


def acted(workspace: Path, checkout: Path, site: Path, **given: str) -> Done:
    """Every `run` of the action in its order and its shell, up to the first that fails.

    setup-python is this Python; pip installs without an index, into a folder, the tool alone: the rest is here.
    """
    told, inputs = action(), {name: about.get("default", "") for name, about in action()["inputs"].items()} | given
    (runner := workspace.parent / "runner").mkdir(exist_ok=True)
    files = {name: runner / name for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    pip = {"PIP_TARGET": site, "PIP_NO_DEPS": 1, "PIP_NO_INDEX": 1, "PIP_NO_BUILD_ISOLATION": 0}
    path = os.pathsep.join([str(site / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    known = {"GITHUB_ACTION_PATH": checkout, "GITHUB_WORKSPACE": workspace, "GITHUB_ACTIONS": "true", "CI": "true"}
    runs = {**known, **files, **pip, "PATH": path, "PYTHONPATH": site}
    environment = os.environ | {name: str(value) for name, value in runs.items()}
    outputs: dict[str, dict[str, str]] = {}
    said: list[subprocess.CompletedProcess[str]] = []
    for file in files.values():
        file.write_text("")
    is_installed = (site / "bin" / "jettison").exists()  # by an earlier run
    for step in (s for s in told["runs"]["steps"] if "run" in s):
        if is_installed and step["name"] == "Install":
            continue
        assert step["shell"] == "bash"  # which a composite action has to say
        script = runner / "script.sh"
        script.write_text(step["run"])
        own = {name: filled(value, inputs, outputs) for name, value in step.get("env", {}).items()}
        words = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", str(script)]
        said.append(
            subprocess.run(words, cwd=workspace, env=environment | own, capture_output=True, text=True, check=False)
        )
        lines = files["GITHUB_OUTPUT"].read_text().splitlines()
        outputs[step.get("id", "")] = dict(line.split("=", 1) for line in lines)
        files["GITHUB_OUTPUT"].write_text("")
        if said[-1].returncode:
            break
    seen = {name: filled(about["value"], inputs, outputs) for name, about in told["outputs"].items()}
    summary = files["GITHUB_STEP_SUMMARY"].read_text()
    return Done(
        said[-1].returncode, seen, *("".join(getattr(d, k) for d in said) for k in ("stdout", "stderr")), summary
    )


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What GitHub fetches of this repository: the action beside what pip is to install."""
    setuptools = pytest.importorskip("setuptools", reason="pip builds the package with it")
    if int(setuptools.__version__.split(".")[0]) < 77:
        pytest.skip(f"pip builds the package with setuptools 77 or later, here is {setuptools.__version__}")
    folder = tmp_path_factory.mktemp("actions") / "jettison"
    for name in ("toolchain", "targets"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "action.yml"):
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pip installs to: the first run of the action fills it, the others find it full."""
    return tmp_path_factory.mktemp("site")


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A repository whose base commit holds a network, its budget and the baseline; what changed since is not in it."""
    (folder := tmp_path / "work space").mkdir()
    net(folder / "net.onnx")
    (folder / "jettison.toml").write_text(BUDGET)
    words = [sys.executable, "-m", "toolchain.cli", "check", "--save-baseline", "baseline.json"]
    subprocess.run(words, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, capture_output=True)
    author = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "base"]):
        subprocess.run(["git", *author, *words], cwd=folder, check=True, capture_output=True)
    return folder


REPORTS = {"comment": "comment.md", "sarif": "check.sarif", "junit": "check.xml"}


def test_the_action_passes_where_nothing_grew(workspace: Path, checkout: Path, site: Path) -> None:
    done = acted(workspace, checkout, site, baseline="git:main:baseline.json", **REPORTS)
    assert done.code == 0, done.stderr
    assert done.outputs == {"passed": "true"} and done.stdout.startswith("::notice title=jettison::")
    assert (workspace / "comment.md").read_text() == done.summary
    assert "**Budgets: 3 passed**" in done.summary
    assert ElementTree.parse(workspace / "check.xml").getroot().attrib["failures"] == "0"
    assert (workspace / "check.sarif").exists()


def test_the_action_fails_where_a_network_grew_beyond_its_base(workspace: Path, checkout: Path, site: Path) -> None:
    net(workspace / "net.onnx", classes=6)
    done = acted(workspace, checkout, site, baseline="git:main:baseline.json", skip="latency\nmacs\n", **REPORTS)
    assert done.code == 1 and done.outputs == {"passed": "false"}
    assert (
        "::error file=jettison.toml,line=5," in done.stdout and f"(it was {PARAMS}, 5 %25 more may pass)" in done.stdout
    )
    assert "**Budgets: 1 passed, 1 failed, 1 skipped**" in done.summary
    assert (workspace / "comment.md").read_text() == done.summary
    assert ElementTree.parse(workspace / "check.xml").getroot().attrib["failures"] == "1"


def test_the_action_runs_again_over_what_it_wrote(workspace: Path, checkout: Path, site: Path) -> None:
    for _ in range(2):
        done = acted(workspace, checkout, site, baseline="baseline.json", **REPORTS)
        assert done.code == 0, done.stderr


def test_a_base_that_was_not_fetched_is_no_pass(workspace: Path, checkout: Path, site: Path) -> None:
    done = acted(workspace, checkout, site, baseline="git:origin/main:baseline.json")
    assert done.code == 3 and done.outputs == {"passed": "false"} and "git fetch" in done.stderr


@pytest.mark.parametrize("value", ["$(touch ran)", "; touch ran", "--format=json", "`touch ran`", "a b"])
def test_an_input_is_never_more_than_a_word(value: str, workspace: Path, checkout: Path, site: Path) -> None:
    done = acted(workspace, checkout, site, config=value)
    assert done.code == 3 and "no such file" in done.stderr
    assert not (workspace / "ran").exists()


# ---- the hook -------------------------------------------------------------------------------------------------------
def test_the_hook_runs_the_command_on_files_that_it_judges() -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert hook["entry"] == "jettison check" and hook["pass_filenames"] is False
    taken = [n for n in ("a/b.onnx", "c.tflite", "jettison.toml", "x/pyproject.toml") if re.search(hook["files"], n)]
    assert len(taken) == 4 and not re.search(hook["files"], "notes-jettison.toml.md")

"""Command line > environment > jettison.toml > default, for commands of the job."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import ROOT, SHIPPED, jettison

from toolchain.cli import cli
from toolchain.cli.configured import COMMANDS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "nets").mkdir()
    shutil.copy(SHIPPED, tmp_path / "nets" / "net.onnx")
    text = '[model]\npath = "nets/net.onnx"\n[prune]\nbudget = "units<=50%"\nalign = 4\nkeep = ["dense1"]\n'
    (tmp_path / "jettison.toml").write_text(text)
    return tmp_path


def test_the_file_gives_what_the_command_line_does_not(folder: Path) -> None:
    same = jettison(
        "prune", "nets/net.onnx", "--budget", "units<=50%", "--align", "4", "--keep", "dense1", "--dry-run", cwd=folder
    )
    assert same.returncode == 0, same.stderr
    done = jettison("prune", "--dry-run", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout == same.stdout


@pytest.mark.parametrize(
    ("words", "environment", "like"),
    [
        ((), {"JETTISON_PRUNE_BUDGET": "units<=25%"}, "25%"),
        (("--budget", "units<=75%"), {"JETTISON_PRUNE_BUDGET": "units<=25%"}, "75%"),
        (("--budget", "units<=75%"), {}, "75%"),
    ],
)
def test_the_command_line_goes_before_the_environment_and_both_before_the_file(
    words: tuple[str, ...], environment: dict[str, str], like: str, folder: Path
) -> None:
    done = jettison("prune", *words, "--dry-run", cwd=folder, **environment)
    same = jettison("prune", "--budget", f"units<={like}", "--dry-run", cwd=folder)
    assert done.returncode == 0 and done.stdout == same.stdout


def test_paths_are_those_beside_the_file_wherever_the_command_runs(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    done = jettison("--config", folder / "jettison.toml", "inspect", cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    assert done.stdout == jettison("inspect", "nets/net.onnx", cwd=folder).stdout


def test_a_plan_is_taken_in_place_of_the_files_budget(folder: Path) -> None:
    assert jettison("prune", "--plan-out", "plan.json", cwd=folder).returncode == 0
    assert jettison("prune", "--plan", "plan.json", "--dry-run", cwd=folder).returncode == 0
    done = jettison("prune", "--plan", "plan.json", "--budget", "units<=50%", "--dry-run", cwd=folder)
    assert done.returncode == 2 and "and one of them alone" in done.stderr


def test_a_mistake_in_the_file_stops_a_command_that_would_read_it_and_no_other(folder: Path) -> None:
    (folder / "jettison.toml").write_text("[prune]\nratoi = 1\n")
    done = jettison("prune", "--dry-run", cwd=folder)
    assert done.returncode == 2 and "jettison.toml:2: [prune] has no key 'ratoi'" in done.stderr
    assert jettison("doctor", cwd=folder).returncode == 0


def test_what_the_file_may_set_is_a_parameter_of_the_command() -> None:
    for name, parameters in COMMANDS.items():
        assert set(parameters) <= {p.name for p in cli.commands[name].params}, name


def test_help_loads_no_numerical_library_beside_a_configuration(folder: Path) -> None:
    code = (
        "import sys\nfrom toolchain.cli import main\nsys.argv = ['jettison', 'prune', '--help']\n"
        "try: main()\nexcept SystemExit as done: assert not done.code\n"
        "bad = {'numpy', 'onnx', 'onnx_ir'} & set(sys.modules)\nsys.exit(f'loaded {bad}' if bad else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=folder,
        env={"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr

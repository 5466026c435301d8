"""Command line > environment > jettison.toml > default, for every command that takes a model or data."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from test_cli import ROOT, SHIPPED, jettison

from toolchain.cli import cli
from toolchain.synthetic import triangles_squares


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


def commands(group: click.Group, *before: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command with the words that call it."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *before, name)
        else:
            yield (*before, name), command


WORDS = {" ".join(words): command for words, command in commands(cli)}
NAMES = ("model", "models", "shapes", "data", "calibration", "validation", "held_out", "tests", "pixels")
AIMS = ("budget", "align", "keep")  # which commands cut to
APART = {  # what the file does not set, and why
    "demo": ("budget",),  # of a network of its own
    "init": ("model", "shapes"),  # it writes the file
    "verify": ("model",),  # PRUNED follows it on the command line
    "recover": ("model",),
}
FULL = """
[model]
path = "m.onnx"
input = { x = [1, 2], "a:b" = [3] }
[data]
calibration = "c.npz"
validation = "v.npz"
pixels = "raw"
[prune]
budget = "units<=50%"
align = 4
keep = ["*/head"]
"""
GIVEN = {
    "model": Path("m.onnx"),
    "models": (Path("m.onnx"),),
    "shapes": ("x:1,2", "a:b:3"),
    "data": Path("c.npz"),
    "calibration": Path("c.npz"),
    "validation": Path("v.npz"),
    "held_out": (Path("v.npz"),),
    "tests": (Path("v.npz"),),
    "pixels": "raw",
    "budget": "units<=50%",
    "align": "4",
    "keep": ("*/head",),
}
REQUIRED = {"cut": ("--at", "r"), "names": ("--target", "a"), "plan_file": ("--plan", "p")}


def called(monkeypatch: pytest.MonkeyPatch, words: str, *more: str) -> dict[str, Any]:
    """What a command is called with; it does not run."""
    command = WORDS[words]
    seen: dict[str, Any] = {}
    monkeypatch.setattr(command, "callback", lambda *_, **parameters: seen.update(parameters))
    required = [w for p in command.params for w in REQUIRED.get(str(p.name), ()) if p.required]
    arguments = [p for p in command.params if isinstance(p, click.Argument)]
    following = ["m.onnx", "cut"] if len(arguments) > 1 else []
    line = [*words.split(), *following, *required, *more]
    cli.main(line, prog_name="jettison", standalone_mode=False, obj={"arguments": line})
    return seen


def set_by_file(words: str) -> list[str]:
    """The parameters of a command that the file sets."""
    return [
        str(p.name) for p in WORDS[words].params if p.name in (*NAMES, *AIMS) and p.name not in APART.get(words, ())
    ]


CONFIGURED = [words for words in WORDS if set_by_file(words)]


def test_nearly_all_commands_that_take_a_model_are_configured() -> None:
    with_model = {w for w, c in WORDS.items() if {"model", "models"} & {p.name for p in c.params}}
    assert with_model - set(CONFIGURED) == {"init"} and "targets estimate" in CONFIGURED


@pytest.mark.parametrize("words", CONFIGURED)
def test_the_file_sets_every_parameter_of_its_names(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jettison.toml").write_text(FULL)
    seen = called(monkeypatch, words)
    wanted = {name: GIVEN[name] for name in set_by_file(words)}
    if words == "export":
        wanted["data"] = Path("v.npz")  # what files are checked on, beside their calibration
    assert {name: seen[name] for name in wanted} == wanted


@pytest.mark.parametrize("words", CONFIGURED)
def test_every_command_takes_the_command_line_before_the_environment_and_both_before_the_file(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jettison.toml").write_text(FULL)
    options = [p for p in WORDS[words].params if p.name in set_by_file(words) and isinstance(p, click.Option)]
    values = {"shapes": "y:9", "pixels": "imagenet", "align": "16"}
    given = {str(p.name): (p, values.get(str(p.name), "given")) for p in options}
    for p, text in given.values():
        monkeypatch.setenv(str(p.envvar), text)
    several = lambda p, text: (text,) if p.multiple else text
    plain = lambda seen: {name: said(seen[name]) for name in given}
    assert plain(called(monkeypatch, words)) == {n: several(p, text) for n, (p, text) in given.items()}
    other = {"shapes": "z:8", "pixels": "unit", "align": "32"}
    line = {name: (p, other.get(name, "said")) for name, (p, _) in given.items()}
    typed = [word for p, text in line.values() for word in (max(p.opts, key=len), text)]
    assert plain(called(monkeypatch, words, *typed)) == {n: several(p, text) for n, (p, text) in line.items()}


def said(value: Any) -> Any:
    """A value as it was typed."""
    return tuple(map(str, value)) if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize("words", [w for w in CONFIGURED if "model" in set_by_file(w) or "models" in set_by_file(w)])
def test_a_model_on_the_command_line_goes_before_that_of_the_file(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jettison.toml").write_text(FULL)
    seen = called(monkeypatch, words, "other.onnx")
    assert Path("other.onnx") in (seen.get("model"), *seen.get("models", ()))


@pytest.mark.parametrize("words", [w for w in CONFIGURED if {"model", "shapes"} <= {*set_by_file(w)}])
def test_shapes_of_the_file_are_of_its_own_model(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jettison.toml").write_text(FULL)
    for model, shapes in (("other.onnx", ()), (str(tmp_path / "m.onnx"), GIVEN["shapes"])):
        assert called(monkeypatch, words, model)["shapes"] == shapes


@pytest.mark.parametrize("words", APART)
def test_what_the_file_does_not_set_is_as_without_it(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    more = {"init": ("given.onnx",), "recover": ("--data", "given.npz")}.get(words, ())
    plain = called(monkeypatch, words, *more)
    (tmp_path / "jettison.toml").write_text(FULL)
    seen = called(monkeypatch, words, *more)
    assert {name: seen[name] for name in APART[words]} == {name: plain[name] for name in APART[words]}


@pytest.mark.parametrize("words", [w for w in WORDS if w not in CONFIGURED and w != "check"])
def test_a_command_that_the_file_sets_nothing_of_does_not_read_it(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jettison.toml").write_text("[prune]\nratoi = 1\n")
    needs_word = any(isinstance(p, click.Argument) for p in WORDS[words].params)
    called(monkeypatch, words, *(("word",) if needs_word else ()))


@pytest.fixture
def named(folder: Path) -> Path:
    """Samples, and a configuration that names their classes."""
    x, y = triangles_squares(24, seed=5)
    np.savez(folder / "plain.npz", x=x, y=y)
    np.savez(folder / "own.npz", x=x, y=y, classes=np.array(["owl", "oak"]))
    (folder / "jettison.toml").write_text('[model]\npath = "nets/net.onnx"\nclasses = ["rock", "sand"]\n')
    return folder


@pytest.mark.parametrize(("data", "said"), [("plain.npz", b"rock\nsand"), ("own.npz", b"owl\noak")])
def test_classes_are_called_as_the_file_does_where_samples_say_nothing(data: str, said: bytes, named: Path) -> None:
    done = jettison("export", "--to", "tflite", "--data", data, "-o", "out", cwd=named)
    assert done.returncode == 0, done.stderr
    assert said in (named / "out" / "net.tflite").read_bytes()  # its metadata


def test_another_number_of_class_names_is_exit_2(named: Path) -> None:
    config = named / "jettison.toml"
    config.write_text(config.read_text().replace('"rock", ', ""))
    done = jettison("export", "--to", "onnx", "--data", "plain.npz", "-o", "out", cwd=named)
    assert done.returncode == 2 and "[model] classes has 1 names, the model scores 2 classes" in done.stderr


def test_a_command_of_a_group_is_configured_too(folder: Path) -> None:
    done = jettison("targets", "estimate", "--target", "stm32h7", cwd=folder)
    assert done.returncode == 0, done.stderr
    same = jettison("targets", "estimate", "nets/net.onnx", "--target", "stm32h7", cwd=folder)
    assert done.stdout == same.stdout


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

"""Laws of the configuration: every mistake is one line with file, line and what is known; every entry has its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolchain.config import line_of, read_config
from toolchain.errors import BadInput, UsageError

WHOLE = """\
# the words [[budget]] and flash = 3 in a comment are none
[model]
path = "rover.onnx"                       # @path
input = { x = [1, 3, 227, 227] }          # @input
classes = ["rock", "sun"]

[data]
validation = "validation.npz"             # @validation
[prune]
budget = "params<=30%"
align = "auto"
keep = [
  "*/head/*",
]

[[budget]]                                # @budget 0
model = '''
[[budget]]
flash = 1'''                              # a file of that name
flash = "16 MiB"                          # @flash 0
latency = { max = "25 ms", stat = "p50" } # @latency
[[budget]]                                # @budget 1
ram = 3                                   # @ram
"fl\\u0061sh" = 2                         # @flash 1
accuracy.min = 0.5                        # @min
accuracy.data = "validation"
"""
PLACES = {
    "path": ("model", "path"),
    "input": ("model", "input"),
    "validation": ("data", "validation"),
    "budget 0": ("budget", 0),
    "flash 0": ("budget", 0, "flash"),
    "latency": ("budget", 0, "latency", "max"),
    "budget 1": ("budget", 1),
    "ram": ("budget", 1, "ram"),
    "flash 1": ("budget", 1, "flash"),
    "min": ("budget", 1, "accuracy", "min"),
}


@pytest.mark.parametrize("mark", PLACES)
def test_an_entry_has_the_line_that_it_stands_on(mark: str, tmp_path: Path) -> None:
    (tmp_path / "jettison.toml").write_text(WHOLE)
    file = read_config(tmp_path / "jettison.toml")
    assert file is not None
    line = WHOLE.splitlines()[file.line(PLACES[mark]) - 1]
    assert line.endswith(f"@{mark}")


def test_an_entry_that_stands_nowhere_has_the_line_of_what_is_around_it() -> None:
    assert line_of("\n[[budget]]\n\nflash = 1\n", ("budget", 0, "ram", "max")) == 1
    assert line_of("\n\nbudget = [{flash = 1},\n{flash = 2}]\n", ("budget", 1, "flash")) == 3


def test_the_schema_of_the_interface_is_read(tmp_path: Path) -> None:
    (tmp_path / "jettison.toml").write_text(WHOLE)
    file = read_config(tmp_path / "jettison.toml")
    assert file is not None
    assert file.config.model.input == {"x": (1, 3, 227, 227)} and file.config.prune.keep == ("*/head/*",)
    assert [b.flash for b in file.config.budget] == ["16 MiB", 2]
    assert file.beside("a/b.npz") == tmp_path / "a" / "b.npz"


BAD = {
    "unknown table": ("[prume]\n", "the file has no key 'prume'. Did you mean 'prune'"),
    "unknown key": ('[prune]\n\nbudgett = "x"\n', ":3: [prune] has no key 'budgett'. Did you mean 'budget'"),
    "unknown key of a budget": ("[[budget]]\nflahs = 1\n", ":2: [[budget]] has no key 'flahs'. Did you mean 'flash'"),
    "unknown key within": (
        "[[budget]]\nlatency = {max = 1, tagret = 'x'}\n",
        ":2: [[budget]] latency has no key 'tagret'. Did you mean 'target'",
    ),
    "wrong type": ("[model]\npath = 3\n", ":2: [model] path: expected 'str', got 'int'"),
    "no truth for a number": ("[[budget]]\nflash = true\n", ":2: [[budget]] flash: expected 'int | float | str'"),
    "a table for a list": ("[budget]\nflash = 1\n", ":1: [[budget]]: expected 'array', got 'object'"),
    "no shape": ("[model]\ninput = { x = [1, 0] }\n", ":2: [model] input: expected 'int' >= 1"),
    "a missing key": ("[[budget]]\nlatency = {}\n", "lacks 'max'"),
    "no such choice": ("[[budget]]\nlatency = {max = 1, stat = 'p51'}\n", "stat cannot be 'p51'. Did you mean"),
    "no TOML": ("[prune\n", "is no TOML"),
    "a key twice": ("[prune]\nalign = 1\nalign = 2\n", "is no TOML"),
    "nested": ("a = " + "[" * 100_000, "nested too deep"),
    "digits": ("[prune]\nalign = " + "9" * 9000, "is no TOML"),
    "large": ("#" * (1 << 20) + "\n", "at most"),
    "hostile key": ('"\\u001b]0;x\\u0007\\n::error::x" = 1\n', r"has no key '\x1b]0;x\x07\n::error::x'"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_is_one_line_with_its_place_and_exit_code_2(name: str, tmp_path: Path) -> None:
    text, told = BAD[name]
    path = tmp_path / "jettison.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_config(path)
    line = str(caught.value)
    assert told in line and str(path) in line and line.isprintable()
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("raw", [b"\xff\xfe[\0m\0", b"path = '\xe9'"])
def test_a_file_that_is_not_utf_8_is_said_to_be_none(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "jettison.toml").write_bytes(raw)
    with pytest.raises(UsageError, match="not UTF-8"):
        read_config(tmp_path / "jettison.toml")


def test_a_file_that_is_missing_or_a_folder_is_a_bad_input(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.toml", tmp_path):
        with pytest.raises(BadInput):
            read_config(path)


def test_pyproject_is_read_only_where_it_speaks_of_jettison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_config() is None
    project = tmp_path / "pyproject.toml"
    project.write_text("[tool.other]\nx = 1\n")
    assert read_config() is None
    with pytest.raises(UsageError, match=r"no \[tool.jettison\]"):
        read_config(project)
    project.write_text('[tool.jettison.model]\npath = "a.onnx"\n[[tool.jettison.budget]]\nflash = 1\n')
    file = read_config()
    assert file is not None and file.config.model.path == "a.onnx" and file.line(("budget", 0, "flash")) == 4
    (tmp_path / "jettison.toml").write_text('[model]\npath = "b.onnx"\n')
    file = read_config()
    assert file is not None and file.config.model.path == "b.onnx"


def test_an_unknown_key_of_pyproject_has_its_line(tmp_path: Path) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_text("[tool.jettison.prune]\n\nratoi = 1\n")
    with pytest.raises(UsageError, match=r"pyproject.toml:3: \[prune\] has no key 'ratoi'"):
        read_config(project)

"""Laws of baselines: growth is relative to them, another model's is refused, and git never takes one for an option."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from gate.files import MACS, PARAMS, net, ran

from toolchain.errors import BadInput, JettisonError, UsageError
from toolchain.gate.baseline import baseline_of, encoded, read_baseline

HEAD = '[[budget]]\nmodel = "net.onnx"\n'
GROWTH = HEAD + 'regress = { params = "10%", baseline = "base.json" }\n'


def base(folder: Path, name: str = "base.json", **figures: float) -> Path:
    """A baseline of the network with some other figures."""
    net(folder / "net.onnx")
    body = json.loads(encoded(baseline_of(ran(folder, HEAD + "params = 1\nmacs = 1\n").subjects)))
    body["models"]["net.onnx"]["figures"] |= figures
    (folder / name).write_text(json.dumps(body))
    return folder / name


def changed(path: Path, **row: Any) -> None:
    """Other fields of the baseline's row."""
    body = json.loads(path.read_text())
    body["models"]["net.onnx"] |= row
    path.write_text(json.dumps(body))


def test_a_baseline_holds_the_counts_and_reads_back(tmp_path: Path) -> None:
    found = read_baseline(str(base(tmp_path)), tmp_path)
    assert found.models["net.onnx"].figures == {"params": PARAMS, "macs": MACS}


@pytest.mark.parametrize(("was", "status"), [(PARAMS, "passed"), (PARAMS / 1.1, "passed"), (PARAMS / 1.11, "failed")])
def test_growth_is_let_pass_up_to_its_share(was: float, status: str, tmp_path: Path) -> None:
    base(tmp_path, params=was)
    (verdict,) = ran(tmp_path, GROWTH).verdicts
    assert verdict.status == status and verdict.before == was


def test_shrinking_is_no_growth(tmp_path: Path) -> None:
    base(tmp_path, params=10 * PARAMS)
    assert not ran(tmp_path, GROWTH).failed


def test_the_way_out_of_growth_is_a_cut_or_to_accept_it(tmp_path: Path) -> None:
    base(tmp_path, params=100)
    (verdict,) = ran(tmp_path, GROWTH).verdicts
    assert "--budget 'params<=110'" in verdict.way_out
    assert verdict.way_out.endswith(f"jettison check --save-baseline {tmp_path / 'base.json'} --force")


def test_a_given_baseline_shows_what_was_before_also_where_nothing_is_compared(tmp_path: Path) -> None:
    path = base(tmp_path, params=7)
    checked = ran(tmp_path, HEAD + "params = 1000\nflash = 100_000\n", baseline=str(path))
    assert {v.limit.quantity: v.before for v in checked.verdicts} == {"params": 7, "flash": None}
    assert not checked.failed


BAD = {
    "empty": (b"", "is no baseline"),
    "text": (b"<html>", "is no baseline"),
    "not UTF-8": (b'{"schema": "\xff"}', "is no baseline"),
    "a list": (b"[]", "is no baseline"),
    "another schema": (b'{"schema": "jettison.report/1", "tool": "", "models": {}}', "is 'jettison.report/1', not"),
    "words for figures": (
        b'{"schema": "jettison.baseline/1", "tool": "", "models": {"net.onnx": {"sha256": "", "inputs": {}, '
        b'"figures": {"params": "few"}}}}',
        "is no baseline: Expected",
    ),
    "no models": (b'{"schema": "jettison.baseline/1", "tool": "", "models": {}}', "has no figures of 'net.onnx'"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_baseline_is_exit_3(name: str, tmp_path: Path) -> None:
    raw, told = BAD[name]
    net(tmp_path / "net.onnx")
    (tmp_path / "base.json").write_bytes(raw)
    with pytest.raises(BadInput, match=told) as caught:
        ran(tmp_path, GROWTH)
    assert caught.value.exit_code == 3 and "--save-baseline" in str(caught.value)


def test_a_missing_baseline_is_no_pass(tmp_path: Path) -> None:
    net(tmp_path / "net.onnx")
    with pytest.raises(BadInput, match="no such file"):
        ran(tmp_path, GROWTH)


def test_a_baseline_of_another_model_is_refused(tmp_path: Path) -> None:
    path = base(tmp_path)
    changed(path, inputs={"x": [3, 224, 224]})
    with pytest.raises(BadInput, match=r"is of a 'net.onnx' with inputs x 3×224×224, today's has x 2×4×4"):
        ran(tmp_path, GROWTH)
    path.write_text(path.read_text().replace('"net.onnx"', '"nets.onnx"'))
    with pytest.raises(BadInput, match=r"has no figures of 'net.onnx'. Did you mean 'nets.onnx'\?"):
        ran(tmp_path, GROWTH)


def test_a_baseline_without_the_figure_is_refused(tmp_path: Path) -> None:
    changed(base(tmp_path), figures={"flash": 1})
    with pytest.raises(BadInput, match=r"has no params of 'net.onnx'"):
        ran(tmp_path, GROWTH)


# ---- git ------------------------------------------------------------------------------------------------------------
def git(folder: Path, *words: str) -> None:
    told = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *told, *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository whose branch main holds a baseline of 100 parameters, with 10 in the working tree."""
    git(tmp_path, "init", "-q", "-b", "main")
    (tmp_path / "ci").mkdir()
    base(tmp_path, "ci/base.json", params=100)
    git(tmp_path, "add", "ci/base.json")
    git(tmp_path, "commit", "-q", "-m", "base")
    base(tmp_path, "ci/base.json", params=10)
    return tmp_path


@pytest.mark.parametrize("revision", ["main", "HEAD", "HEAD~0", "main@{0}", "refs/heads/main"])
def test_a_baseline_of_a_commit_is_the_committed_one(revision: str, repository: Path) -> None:
    (verdict,) = ran(repository, GROWTH, baseline=f"git:{revision}:ci/base.json").verdicts
    assert verdict.before == 100


@pytest.mark.parametrize(
    "source",
    [
        "git:--output=x:y",
        "git:-h:y",
        "git::y",
        "git:main:",
        "git:main",
        "git:",
        "git:a b:y",
        "git:$(x):y",
        "git:m\n:y",
        "git:;x:y",
        "git:main:a\x1bb",
        "git:..:y/../z\n",
    ],
)
def test_a_hostile_revision_never_reaches_git(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_: object, **__: object) -> None:
        raise AssertionError("git was started")

    monkeypatch.setattr(subprocess, "run", started)
    with pytest.raises(UsageError, match=r"git:origin/main:baseline.json"):
        read_baseline(source, tmp_path)


@pytest.mark.parametrize("source", ["git:nowhere:ci/base.json", "git:main:other.json", "git:main:ci"])
def test_what_a_commit_does_not_hold_is_exit_3(source: str, repository: Path) -> None:
    with pytest.raises(BadInput, match="git has no such file"):
        read_baseline(source, repository)


def test_a_repository_does_not_run_what_it_configures(repository: Path) -> None:
    """A text conversion is what `git show` would run."""
    (repository / ".gitattributes").write_text("*.json diff=evil\n")
    git(repository, "config", "diff.evil.textconv", f"touch {repository / 'ran'};cat")
    read_baseline("git:main:ci/base.json", repository)
    assert not (repository / "ran").exists()


def test_outside_of_a_repository_git_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(JettisonError, match="not a git repository"):
        read_baseline("git:main:base.json", tmp_path)

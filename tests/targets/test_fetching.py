"""Laws of fetching for other processors: nothing twice, nothing altered, one line for what is missing. No network."""

from __future__ import annotations

import shutil
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from targets import fetching, rootfs
from targets.locks import alone
from targets.measure import RunnerError


def silent(said: str) -> None:
    """Progress that nobody reads."""


@pytest.fixture
def no_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty PATH: whatever would be fetched cannot be."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


def test_what_lies_there_unaltered_is_not_fetched_again(tmp_path: Path, no_apt: None) -> None:
    (tmp_path / "a.deb").write_bytes(b"a")
    fetching.keep(tmp_path, {"a": tmp_path / "a.deb"})
    assert fetching.packages("arm64", ["a"], tmp_path, silent) == {"a": tmp_path / "a.deb"}


def test_packages_come_in_the_order_in_which_they_were_asked_for(tmp_path: Path, monkeypatch) -> None:
    """What is built of them has to be the same, whichever of them lay there: else it would be built once more."""

    def package(asked: str, options: object, folder: Path) -> Path:
        (folder / asked).write_text(asked)
        return folder / asked

    monkeypatch.setattr(fetching, "package", package)
    monkeypatch.setattr(fetching, "command", lambda *words: "")
    monkeypatch.setattr(fetching, "private_apt", lambda debian: nullcontext([]))
    for there in ("", "a", "b", "c", "cb", "bca"):
        fetching.keep(tmp_path, {name: package(name, (), tmp_path) for name in there})
        assert [*fetching.packages("arm64", ["c", "a", "b"], tmp_path, silent)] == ["c", "a", "b"]


@pytest.mark.parametrize("spoil", [lambda p: p.write_bytes(b"b"), lambda p: p.unlink()], ids=["altered", "gone"])
def test_what_was_altered_or_lost_is_no_longer_kept(spoil, tmp_path: Path) -> None:
    paths = {name: tmp_path / f"{name}.deb" for name in "ab"}
    for name, path in paths.items():
        path.write_text(name + name)
    fetching.keep(tmp_path, paths)
    spoil(paths["a"])
    assert fetching.kept(tmp_path) == {"b": paths["b"]}


@pytest.mark.parametrize(
    "record", ["", "[]", "{", '{"a": 1}', '{"a": {"file": "a.deb"}}', '{"a": {"file": 1, "sha256": 2}}']
)
def test_a_record_that_was_cut_short_counts_as_none(record: str, tmp_path: Path) -> None:
    (tmp_path / "fetched.json").write_text(record)
    assert fetching.kept(tmp_path) == {}


def test_a_program_that_is_missing_is_named_with_its_package(no_apt: None) -> None:
    with pytest.raises(RunnerError, match=r"^qemu-aarch64 is not installed\. .* apt-get install qemu-user$"):
        rootfs.set_up("arm64", silent)


def programs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs of the names that a set-up needs are on the PATH, and the cache is in this folder."""
    for name in ("qemu-aarch64", "apt-get", "apt-cache", "dpkg-deb"):
        (folder / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))


def test_a_board_is_set_up_by_one_run_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(tmp_path, monkeypatch)
    with alone(rootfs.home("arm64")), pytest.raises(RunnerError, match=r"^another run sets up .*arm64\. Wait for it"):
        rootfs.set_up("arm64", silent)


def test_a_cache_that_cannot_be_written_is_one_line_with_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(tmp_path, monkeypatch)
    (tmp_path / "cache").touch()
    with pytest.raises(RunnerError, match=r"^cannot write .*cache.*: .*\. Make room, or set XDG_CACHE_HOME"):
        rootfs.set_up("arm64", silent)


def test_an_index_that_does_not_answer_is_one_line_with_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(RunnerError) as caught:
        fetching.wheels("aarch64", ["numpy"], tmp_path, silent)
    assert "numpy" in str(caught.value) and "Check the network" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(shutil.which("apt-get") is None or not fetching.KEYRING.is_file(), reason="this is no Debian")
def test_a_mirror_that_does_not_answer_is_one_line_with_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "mirror", lambda: "http://127.0.0.1:9/debian")
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RunnerError, match=r"^the Debian mirror does not answer: .*127\.0\.0\.1.*Check the network"):
        fetching.packages("arm64", ["libc6"], tmp_path, silent)
    assert list(tmp_path.iterdir()) == []


def test_the_cache_is_where_the_user_keeps_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert rootfs.home("arm64").is_relative_to(tmp_path)
    assert not rootfs.is_made("arm64")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert rootfs.home("arm64").is_relative_to(Path.home())


def test_a_program_that_fails_tells_its_first_error(tmp_path: Path) -> None:
    words = [sys.executable, "-c", "import sys; print('E: no such package\\nE: later\\nbye'); sys.exit(3)"]
    with pytest.raises(RunnerError, match=r"^cannot fetch x: E: no such package\."):
        fetching.command(words, tmp_path, "cannot fetch x")

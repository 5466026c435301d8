"""Laws of the initramfs writer: cpio reads what it wrote, and nothing in it depends on who wrote it or when."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from targets import newc

CPIO = shutil.which("cpio")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/odd").write_bytes(b"12345")
    (root / "usr/bin/empty").touch()
    (root / "usr/bin/odd").chmod(0o755)
    (root / "bin").symlink_to("usr/bin")
    return root


def entries(root: Path) -> list[newc.Entry]:
    console = newc.Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    return [*newc.tree(root), newc.folder("dev"), console]


@pytest.mark.skipif(CPIO is None, reason="cpio is not installed")
def test_cpio_unpacks_what_was_archived(tree: Path, tmp_path: Path) -> None:
    whole = b"".join(newc.archive(newc.tree(tree)))
    there = tmp_path / "there"
    there.mkdir()
    subprocess.run(["cpio", "-i", "--quiet", "--no-absolute-filenames"], input=whole, cwd=there, check=True)
    found = sorted(p.relative_to(there).as_posix() for p in there.rglob("*"))
    assert found == ["bin", "usr", "usr/bin", "usr/bin/empty", "usr/bin/odd"]
    assert (there / "usr/bin/odd").read_bytes() == b"12345" and os.access(there / "usr/bin/odd", os.X_OK)
    assert (there / "bin").readlink() == Path("usr/bin")


@pytest.mark.skipif(CPIO is None, reason="cpio is not installed")
def test_device_nodes_are_listed_with_their_numbers_though_nobody_was_root(tree: Path) -> None:
    whole = b"".join(newc.archive(entries(tree)))
    listed = subprocess.run(["cpio", "-tv", "--quiet"], input=whole, capture_output=True, check=True).stdout.decode()
    (console,) = [line.split() for line in listed.splitlines() if line.endswith("dev/console")]
    assert console[0] == "crw-------" and console[4:6] == ["5,", "1"]


def test_the_same_tree_gives_the_same_bytes_whenever_it_was_made(tree: Path) -> None:
    first = b"".join(newc.archive(newc.tree(tree)))
    for path in tree.rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)
    assert b"".join(newc.archive(newc.tree(tree))) == first
    assert len(first) % 4 == 0  # so that another archive may follow

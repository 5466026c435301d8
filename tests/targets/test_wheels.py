"""Laws of wheels for other computers: what is asked of the index is what pip would ask there."""

from __future__ import annotations

import os
import sys

import pytest
from packaging import tags

from targets.agent import RUNTIMES
from targets.wheels import NEEDED, There, platforms

THERE = There("aarch64", 64, "glibc 2.31", (3, 9), (), 0)


def test_the_platforms_of_this_computer_are_pip_s_own() -> None:
    libc = os.confstr("CS_GNU_LIBC_VERSION") if "CS_GNU_LIBC_VERSION" in os.confstr_names else None
    if libc is None or sys.maxsize < 2**32:
        pytest.skip("needs glibc on 64 bits")
    mine = platforms(There(os.uname().machine, 64, libc, (3, 11), (), 0))
    known = list(tags.platform_tags())
    assert [tag for tag in known if tag in mine] == mine  # all of them run here, and newest come first
    # x86's glibc 2.5 to 2.16 and the plain linux tag, which no index carries, are all that is left out
    left_out = [t for t in known if t not in mine and t.startswith("manylinux_2_")]
    assert all(int(tag.split("_")[2]) < 17 for tag in left_out)


@pytest.mark.parametrize(
    ("machine", "bits", "wanted"),
    [
        ("aarch64", 64, "aarch64"),
        ("aarch64", 32, "armv7l"),  # a Raspberry Pi with a 32-bit system on a 64-bit kernel
        ("armv7l", 32, "armv7l"),
        ("x86_64", 32, "i686"),
        ("riscv64", 64, "riscv64"),
    ],
)
def test_the_architecture_is_that_of_python_not_of_the_kernel(machine: str, bits: int, wanted: str) -> None:
    assert There(machine, bits, "glibc 2.17", (3, 9), (), 0).architecture == wanted


def test_no_tag_is_newer_than_the_c_library() -> None:
    assert platforms(THERE)[0] == "manylinux_2_31_aarch64"
    assert platforms(There("aarch64", 64, None, (3, 12), (), 0)) == ["musllinux_1_2_aarch64", "musllinux_1_1_aarch64"]


def test_every_runtime_has_its_wheels_named_as_the_agent_imports_them() -> None:
    assert {name: next(m for m in reversed(needed)) for name, needed in NEEDED.items()} == {
        name: module.partition(".")[0] for name, (module, _, _) in RUNTIMES.items()
    }
    assert all(next(iter(needed)) == "numpy" for needed in NEEDED.values())

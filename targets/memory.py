"""What memory there is, and children that get no more of it: a file may ask a runtime for any amount."""

from __future__ import annotations

import os
import resource
from pathlib import Path

GROUP = Path("/sys/fs/cgroup/memory.max")


def memory_bytes() -> int:
    """Of this computer, or what its control group may take."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    if GROUP.is_file() and (told := GROUP.read_text("ascii").strip()).isdigit():
        limits.append(int(told))
    return min(limits)


def bound(pid: int, most: int) -> None:
    """From now on a child's own data is `most` bytes at most, where the system can hold it to that (Linux 4.7).

    RLIMIT_DATA and not RLIMIT_AS: runtimes reserve addresses, and map files, far beyond what they use.
    """
    if not hasattr(resource, "prlimit"):
        return
    _, hard = resource.prlimit(pid, resource.RLIMIT_DATA)
    allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.prlimit(pid, resource.RLIMIT_DATA, (allowed, hard))

"""A board without a board: sshd on the loopback interface, where possible as a user who may do nothing special."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from targets.address import Address

SSHD = Path("/usr/sbin/sshd")


@dataclass(frozen=True)
class Loopback:
    """A running sshd; `temporary` is the only folder there that its sessions use for temporary files."""

    address: Address
    home: Path
    temporary: Path
    server: subprocess.Popen[bytes]

    def with_options(self, *options: str) -> Address:
        """The address, with options that come first."""
        return replace(self.address, options=(*options, *self.address.options))

    def sessions(self) -> set[int]:
        """The server's processes that serve connections."""
        return children(self.server.pid)

    def left(self) -> list[str]:
        """The files of its temporary folder, and the processes that know of it, wherever they hang."""
        # os.walk, since sessions take folders away while we look; pathlib raises there
        files = [str(Path(at, name)) for at, folders, names in os.walk(self.temporary) for name in (*folders, *names)]
        processes = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if f"TMPDIR={self.temporary}".encode() in path.read_bytes():
                    words = (path.parent / "cmdline").read_bytes().split(b"\0")
                    processes.append(b" ".join(words).decode(errors="replace"))
        return files + processes

    def soon_clean(self, within_s: float = 20.0) -> bool:
        """Whether nothing is `left` within some seconds: killed processes take a moment to go."""
        end = time.monotonic() + within_s
        while self.left():
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
        return True

    def wrapped(self, name: str, script: str) -> Address:
        """The address with another python: a shell script, in which $PYTHON is the true one."""
        path = self.home / name
        path.write_text(f"#!/bin/sh\nPYTHON={self.address.python}\n{script}\n")
        path.chmod(0o755)
        return replace(self.address, python=str(path))


def children(parent: int) -> set[int]:
    """The processes that descend from one."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = {parent}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {parent}


def account() -> pwd.struct_passwd:
    """Who the board's user is: whoever runs the tests, or the first ordinary user with a shell if that is root."""
    if os.getuid() != 0:
        return pwd.getpwuid(os.getuid())
    shells = ("/bin/sh", "/bin/bash", "/bin/dash")
    ordinary = [user for user in pwd.getpwall() if 1000 <= user.pw_uid < 60000 and user.pw_shell in shells]
    if not ordinary:
        pytest.skip("as root there must be an ordinary user with a shell: adduser --disabled-password board")
    return ordinary[0]


@cache
def python_for(user: str) -> str:
    """The source of an interpreter that `user` may run and that finds what ours has; empty if there is none.

    It is ours, or the system's of the same version with the folder of our packages behind what it is given.
    """
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    behind = f'PYTHONPATH="${{PYTHONPATH:+$PYTHONPATH:}}{packages}"'
    for candidate in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        script = f'{"" if candidate == sys.executable else behind} exec {candidate} "$@"'.strip()
        command = ["sh", "-c", script, "sh", "-c", "import numpy, onnxruntime"]
        environment = {"PATH": os.environ["PATH"], "ORT_DISABLE_TELEMETRY": "1"}
        if subprocess.run(command, capture_output=True, cwd="/", env=environment, **identity(user)).returncode == 0:
            return f"#!/bin/sh\n{script}\n"
    return ""


def identity(user: str) -> dict[str, Any]:
    """What makes a child run as `user`; only root can."""
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []} if os.getuid() == 0 else {}


@contextlib.contextmanager
def loopback(*settings: str) -> Iterator[Loopback]:
    """An sshd with a key of ours; skips where that cannot be. `settings` are lines of its configuration, which win."""
    if not SSHD.exists() or not shutil.which("ssh"):
        pytest.skip("needs sshd and ssh: apt install openssh-server openssh-client")
    user = account()
    with (
        tempfile.TemporaryDirectory(prefix="board.", dir="/tmp") as folder,
        socket.create_server(("127.0.0.1", 0)) as s,
    ):
        home, port = Path(folder), s.getsockname()[1]
        s.close()
        home.chmod(0o755)
        for name in ("host", "key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / name)], check=True)
        temporary = home / "tmp"
        temporary.mkdir()
        if os.getuid() == 0:
            for path in (home / "host", temporary):
                os.chown(path, user.pw_uid, user.pw_gid)
        shutil.copy(home / "key.pub", home / "authorized_keys")
        (home / "known_hosts").write_text(f"[127.0.0.1]:{port} {(home / 'host.pub').read_text()}")
        lines = [
            *settings,
            f"Port {port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {home / 'host'}",
            f"AuthorizedKeysFile {home / 'authorized_keys'}",
            "PidFile none",
            "UsePAM no",
            "StrictModes no",
            f"SetEnv TMPDIR={temporary}",
        ]
        (home / "sshd_config").write_text("\n".join(lines) + "\n")
        command = [str(SSHD), "-D", "-e", "-f", str(home / "sshd_config")]
        with (home / "log").open("wb") as log:
            streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            server = subprocess.Popen(command, cwd="/", **streams, **identity(user.pw_name))
        options = (
            "IdentitiesOnly=yes",
            f"IdentityFile={home / 'key'}",
            f"UserKnownHostsFile={home / 'known_hosts'}",
            "GlobalKnownHostsFile=/dev/null",
            "StrictHostKeyChecking=yes",
        )
        python = home / "python3"
        python.write_text(python_for(user.pw_name) or pytest.skip(f"{user.pw_name} can run no Python like ours"))
        python.chmod(0o755)
        address = Address("127.0.0.1", port, user.pw_name, options, str(python))
        try:
            answers(port, server, home / "log")
            yield Loopback(address, home, temporary, server)
        finally:
            for pid in children(server.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            server.terminate()
            server.wait()


def answers(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until sshd listens; skip where it does not."""
    for _ in range(100):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if server.poll() is not None:
            break
        time.sleep(0.05)
    pytest.skip(f"sshd does not run here: {log.read_text(errors='replace').strip()[-200:]}")

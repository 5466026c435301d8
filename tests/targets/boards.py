"""A board without a board: sshd on the loopback interface, where possible as a user who may do nothing special."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from targets.link import Address

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
        """The processes that descend from the server."""
        parents = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        found = {self.server.pid}
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return found - {self.server.pid}


def account() -> pwd.struct_passwd:
    """Who the board's user is: whoever runs the tests, or the first ordinary user with a shell if that is root."""
    if os.getuid() != 0:
        return pwd.getpwuid(os.getuid())
    shells = ("/bin/sh", "/bin/bash", "/bin/dash")
    ordinary = [user for user in pwd.getpwall() if 1000 <= user.pw_uid < 60000 and user.pw_shell in shells]
    if not ordinary:
        pytest.skip("as root there must be an ordinary user with a shell: adduser --disabled-password board")
    return ordinary[0]


def python_of(user: pwd.struct_passwd, folder: Path) -> str:
    """An interpreter that `user` may run and that finds what ours has: ours, or the system's of the same version."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    for candidate in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        wrapper = folder / "python3"
        paths = f'PYTHONPATH="$PYTHONPATH:{packages}" ' if candidate != sys.executable else ""
        wrapper.write_text(f'#!/bin/sh\n{paths}exec {candidate} "$@"\n')
        wrapper.chmod(0o755)
        with contextlib.suppress(OSError):
            group = dict(user=user.pw_uid, group=user.pw_gid, extra_groups=[]) if os.getuid() == 0 else {}
            check = [str(wrapper), "-c", "import numpy, onnxruntime"]
            if subprocess.run(check, capture_output=True, timeout=60, cwd="/", **group).returncode == 0:
                return str(wrapper)
    pytest.skip(f"user {user.pw_name} can run no {version} with numpy and onnxruntime")


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
        identity = dict(user=user.pw_uid, group=user.pw_gid, extra_groups=[]) if os.getuid() == 0 else {}
        command = [str(SSHD), "-D", "-e", "-f", str(home / "sshd_config")]
        with (home / "log").open("wb") as log:
            server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log, cwd="/", **identity)
        options = (
            "IdentitiesOnly=yes",
            f"IdentityFile={home / 'key'}",
            f"UserKnownHostsFile={home / 'known_hosts'}",
            "GlobalKnownHostsFile=/dev/null",
            "StrictHostKeyChecking=yes",
        )
        address = Address("127.0.0.1", port, user.pw_name, options, python_of(user, home))
        try:
            answers(port, server, home / "log")
            yield Loopback(address, home, temporary, server)
        finally:
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

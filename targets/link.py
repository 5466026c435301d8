"""One connection by the system's OpenSSH, and the temporary folder that it holds on the other side.

The first session is the keeper. It makes the folder, and when its standard input ends it kills what still runs for us
there and removes the folder. Its input ends when we close it, when this process dies, when the connection breaks; and
where a board does not notice that the other side is gone, its own time limit ends it. All later sessions share the
connection (ControlMaster). OpenSSH's configuration is the user's; keys and passwords are the user's business alone.
"""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from targets.address import Address, AddressError
from targets.locks import scratch
from targets.measure import RunnerError

__all__ = ["Address", "AddressError", "Link", "last", "linked", "run"]

OPTIONS = (
    "BatchMode=yes",
    "ConnectTimeout=10",
    "ServerAliveInterval=5",
    "ServerAliveCountMax=6",
    "LogLevel=ERROR",
    "RequestTTY=no",
    "RemoteCommand=none",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "PermitLocalCommand=no",
    "ControlPersist=no",
    "EscapeChar=none",
)

# How long the keeper may take to clean up.
GRACE_S = 15.0

FOLDER = "jettison-folder "

# Each session leaves the ids of its shell (which leads a group) and of what runs in it in a file of the folder.
# The second try is for a process that was still writing when it was killed.
KEEPER = """
umask 077
d=$(mktemp -d "${TMPDIR:-/tmp}/jettison.XXXXXXXX") || exit 73
end() {
  for f in "$d"/*.pid; do read g p <"$f" && { kill -9 -$g; kill -9 $p; }; done 2>/dev/null
  rm -rf "$d" 2>/dev/null || { sleep 1; rm -rf "$d"; }
}
trap "exit 1" HUP INT TERM PIPE
trap end EXIT
echo "MARK$d"
LIMIT cat >/dev/null
end && trap - EXIT
"""
SESSION = """
exec 3<&0; cd FOLDER || exit 73; f=$$.pid; echo $$ $$ >$f
COMMAND <&3 3<&- & p=$! ; exec 3<&-; echo $$ $p >$f; wait $p; s=$?; rm -f $f; exit $s
"""


# What OpenSSH says, what that means, and the way out; the first that fits. {login} is `Address.login`.
FAILURES: tuple[tuple[str, str], ...] = (
    (
        "IDENTIFICATION HAS CHANGED",
        "its host key is not the one known. If that is rightly so, remove the old one with ssh-keygen -R, "
        "then run `{login}` once (jettison never accepts keys)",
    ),
    (
        "Host key verification failed|host key is known",
        "host key unknown. Run `{login}` once and compare the key (jettison never accepts keys)",
    ),
    (
        "Permission denied|Too many authentication failures",
        "it refuses our keys, or wants a password ({said}). Set up a key with ssh-copy-id, "
        "so that `{login}` asks for nothing (jettison never types passwords)",
    ),
    ("Could not resolve hostname", "no host of this name is known. Check its spelling, or name it in ~/.ssh/config"),
    ("Connection refused", "it refuses the connection. Is sshd running there, and is the port right?"),
    ("No route to host|Network is unreachable", "it cannot be reached from here. Check the network, then `{login}`"),
    ("timed out", "no answer in time. Check that it is on and reachable: `{login}`"),
    ("[Bb]ad configuration option|Bad owner or permissions|unsupported option", "ssh's configuration: {said}"),
    (
        "[Ss]ession open refused|open failed",
        "it allows too few sessions on a connection. Raise MaxSessions to 4 in its sshd_config",
    ),
)


def failure(address: Address, stderr: str, otherwise: str) -> RunnerError:
    """What ssh's words mean, in one line; `otherwise` if they are none of the known ones."""
    for pattern, told in FAILURES:
        for said in reversed(stderr.splitlines()):
            if re.search(pattern, said):
                return RunnerError(f"{address.host}: {told.format(login=address.login, said=said.strip()[:200])}")
    return RunnerError(f"{address.host}: {otherwise}{last(stderr)}")


def last(stderr: str) -> str:
    """The last words of a process, as they follow a message; empty if there are none."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return f": {lines[-1][:300]}" if lines else ""


@dataclass(frozen=True)
class Link:
    """An open connection: `folder` is ours on the other side until it closes."""

    address: Address
    folder: str
    control: Path
    log: Path
    master: subprocess.Popen[bytes]


def ssh(address: Address, script: str, *options: str) -> list[str]:
    """The command line that runs a script of POSIX's shell on the other side, whatever the login shell there is."""
    given = [word for option in (*options, *address.options, *OPTIONS) for word in ("-o", option)]
    return ["ssh", *given, *address.words, f"exec sh -c {shlex.quote(script.strip())}"]


@contextmanager
def linked(address: Address, *, wait_s: float, limit_s: float | None) -> Iterator[Link]:
    """A connection with a folder on the other side, gone with everything in it at the end, whatever happens within.

    wait_s   for the greeting, once connected
    limit_s  after which a board that has not heard of us ends everything by itself; None: never
    Raises RunnerError, also where the folder may have been left behind.
    """
    limit = f"timeout {limit_s:.0f}" if limit_s is not None else ""
    script = KEEPER.replace("MARK", FOLDER).replace("LIMIT", limit)
    # /tmp, because the path of a socket has at most some 100 characters
    with scratch("/tmp") as private:
        control, log = private / "c", private / "log"
        command = ssh(address, script, "ControlMaster=yes", f"ControlPath={control}")
        try:
            with log.open("wb") as stderr:
                master = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    start_new_session=True,  # Ctrl-C must reach it as the end of its input, after which it cleans up
                )
        except OSError as error:
            raise RunnerError(f"cannot start ssh: {error.strerror}. Install the OpenSSH client") from error
        with master:
            try:
                folder = greeting(master, address, log, wait_s)
                yield Link(address, folder, control, log, master)
            except BaseException:
                closed(master)
                raise
            if (status := closed(master)) != 0:
                told = f"{address.host}: {folder} may have been left there (exit {status}){last(read(log))}"
                raise RunnerError(told)


def greeting(master: subprocess.Popen[bytes], address: Address, log: Path, wait_s: float) -> str:
    """The folder that the keeper made, whatever the login shell says before; RunnerError if it made none."""
    assert master.stdout is not None
    timer = threading.Timer(wait_s, master.kill)
    timer.start()
    try:
        for line in master.stdout:
            if line.startswith(FOLDER.encode()):
                return line.decode(errors="replace").removeprefix(FOLDER).rstrip("\n")
    finally:
        timer.cancel()
    status = master.wait()
    if status == 255:
        raise failure(address, read(log), "no connection")
    reasons = {
        -signal.SIGKILL: f"no shell answered within {wait_s:g} s. Check `{address.login}`",
        73: "no temporary folder can be made there. Mend that, or set TMPDIR there",
    }
    reason = reasons.get(status, f"its shell does not run commands (exit {status}). Check `{address.login} true`")
    raise RunnerError(f"{address.host}: {reason}{last(read(log))}")


def closed(master: subprocess.Popen[bytes]) -> int:
    """ssh's exit status after its input has ended: 0 when the other side is clean."""
    assert master.stdin is not None
    master.stdin.close()
    try:
        return master.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        master.kill()
        return master.wait()


def read(log: Path) -> str:
    """What ssh said so far."""
    return log.read_text(encoding="utf-8", errors="replace")


@dataclass(frozen=True)
class Answer:
    """What a command on the other side left behind; a negative status is the signal that ended it."""

    status: int
    stdout: bytes
    stderr: str


def run(link: Link, words: list[str], *, doing: str, timeout_s: float, feed: IO[bytes] | None = None) -> Answer:
    """What `words` do on the other side, in its folder; RunnerError if they take too long or the connection breaks.

    doing  who may not finish, for the message
    feed   standard input
    """
    host = link.address.host
    script = SESSION.replace("FOLDER", shlex.quote(link.folder)).replace("COMMAND", shlex.join(words))
    # Without its master a session would connect anew, to a folder that is gone.
    command = ssh(link.address, script, "ControlMaster=no", f"ControlPath={link.control}", "ProxyCommand=false")
    try:
        done = subprocess.run(
            command,
            stdin=feed or subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired as error:
        raise RunnerError(f"{host}: {doing} did not finish within {timeout_s:g} s") from error
    stderr = done.stderr.decode(errors="replace")
    if done.returncode == 255:  # ssh's own, or the command's
        if is_over(link):
            otherwise = f"the connection broke during {doing} (the board clears {link.folder} by itself)"
            raise failure(link.address, read(link.log), otherwise)
        if re.search(FAILURES[-1][0], stderr):
            raise failure(link.address, stderr, "no session")
    status = 128 - done.returncode if 128 < done.returncode <= 128 + 64 else done.returncode
    return Answer(status, done.stdout, stderr)


def is_over(link: Link) -> bool:
    """Whether the connection has ended."""
    try:
        link.master.wait(2.0)  # the session learns of it from the master, whose end this is
    except subprocess.TimeoutExpired:
        return False
    return True

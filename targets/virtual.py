"""Boards that exist only here: programs run for another processor (qemu-user), and a whole virtual board with a clock
that counts instructions.

The virtual board's clock advances one nanosecond with each instruction (`-icount shift=0`), so that the ordinary agent,
reached over ordinary SSH, reports instructions where it would report nanoseconds: grade "counted", the same on a loaded
and on an idle computer. The count is of the whole guest, kernel included; caches and stalls are not in it. Memory is
that of a real system. qemu-user has neither a clock nor memory of its own; it tells whether a model runs on that
processor at all, and what it answers.
"""

from __future__ import annotations

import base64
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from targets import newc, rootfs
from targets.answers import allowed, difference, load, reference
from targets.fetching import command, missing
from targets.locks import scratch
from targets.measure import AGENT, Measurement, RunnerError, agent_words, answer, child
from targets.ssh import Address, measure_over_ssh


@dataclass(frozen=True)
class Emulated:
    """A processor that qemu knows: the tree for it, its `-cpu`, and whether a whole board is booted with it."""

    architecture: str
    processor: str
    boots: bool


# Never `-cpu max`: it has instructions that no board has.
EMULATED = {
    "qemu-a53": Emulated("arm64", "cortex-a53", boots=True),
    "qemu-a72": Emulated("arm64", "cortex-a72", boots=True),
    "qemu-user-a53": Emulated("arm64", "cortex-a53", boots=False),
    "qemu-user-a72": Emulated("arm64", "cortex-a72", boots=False),
    "qemu-user-a15": Emulated("armhf", "cortex-a15", boots=False),
    "qemu-user-a9": Emulated("armhf", "cortex-a9", boots=False),
}


# The programs of this computer that a virtual board needs.
BOOT = ("qemu-system-aarch64", "setpriv", "ssh", "ssh-keygen")


def emulated(name: str) -> Emulated:
    """The row of the table; RunnerError, with what is known, if there is none."""
    if name not in EMULATED:
        raise RunnerError(f"no emulated board '{name}'; known are {', '.join(EMULATED)}")
    return EMULATED[name]


def setup(name: str, progress: Callable[[str], None]) -> None:
    """Fetch and build what the emulated board `name` needs, where it is not there already. Raises RunnerError."""
    rootfs.set_up(emulated(name).architecture, progress)


def is_set_up(name: str) -> str | None:
    """Why the emulated board `name` cannot be used, in one line with the way out; None if it can."""
    chosen = emulated(name)
    absent = missing(BOOT if chosen.boots else [rootfs.ARCHITECTURES[chosen.architecture].emulator])
    if absent or rootfs.is_made(chosen.architecture):
        return absent
    return f"{name} is not set up. Set it up with: jettison targets setup {name}"


# ---- the virtual board ----------------------------------------------------------------------------------------------


def measure_virtual(
    pairs: Sequence[tuple[Path, str]],
    board: str,
    *,
    runs: int = 3,
    warmup: int = 1,
    threads: int = 1,
    inputs: Path | None = None,
    ops: int = 0,
    timeout_s: float = 600.0,
    tolerance: float = 1e-5,
) -> list[Measurement]:
    """A measurement of each (model, runtime) on the virtual board: grade "counted", every ns being an instruction.

    Few runs do: they differ by what the guest's timer interrupts take. The board has one core. Raises RunnerError.
    """
    with virtual_board(board) as address:
        return measure_over_ssh(
            pairs,
            address,
            runs=runs,
            rounds=1,  # another process counts the same, and starting one takes the board longer than most models
            warmup=warmup,
            threads=threads,
            inputs=inputs,
            ops=ops,
            timeout_s=timeout_s,
            tolerance=tolerance,
            grade="counted",
            target=board,
        )


@contextmanager
def virtual_board(name: str, *, memory_mib: int = 2048, timeout_s: float = 120.0) -> Iterator[Address]:
    """A booted board with one core and an SSH server for this user alone; it is gone when the block is left.

    memory_mib  the board's, of which its own files take about 400
    timeout_s   from power-on to the SSH server's greeting
    Raises RunnerError, with the console's last line, if the board does not come up. A RunnerError raised in the block
    tells in addition whether the board died, and what its console said since.
    """
    chosen = emulated(name)
    if not chosen.boots:
        raise RunnerError(f"{name} is no whole board: only qemu-user runs {chosen.processor} here")
    reason = is_set_up(name)
    if reason:
        raise RunnerError(reason)
    with scratch() as run:
        port = free_port()
        address, keys = credentials(run, port)
        source = rootfs.home(chosen.architecture)
        with (run / "initramfs").open("wb") as file:
            file.write((source / "initramfs").read_bytes())
            file.writelines(newc.archive(keys))
        with powered(machine(chosen, source / "kernel", run, port, memory_mib), run / "console") as process:
            greeted(process, port, run / "console", timeout_s)
            before = (run / "console").read_bytes()
            try:
                yield address
            except RunnerError as error:
                dead = f"; the virtual board died (exit {process.returncode})" if process.poll() is not None else ""
                if not dead and (run / "console").read_bytes() == before:
                    raise
                raise RunnerError(f"{error}{dead}; {last_line(run / 'console')}") from error


def machine(chosen: Emulated, kernel: Path, run: Path, port: int, memory_mib: int) -> list[str]:
    """The command line of a machine whose clock counts instructions, and while it idles goes as ours does.

    With sleep=off an idle machine would leap from timer to timer, and its SSH server would close a connection whose
    client takes a tenth of a second: five minutes in there. setpriv makes the kernel end the machine with its parent,
    however that ends.
    """
    return [
        *("setpriv", "--pdeathsig", "KILL", "qemu-system-aarch64"),
        *("-machine", "virt", "-cpu", chosen.processor, "-smp", "1", "-m", str(memory_mib)),
        *("-icount", "shift=0,sleep=on,align=off", "-no-reboot", "-nodefaults", "-display", "none"),
        *("-kernel", str(kernel), "-initrd", str(run / "initramfs"), "-append", "console=ttyAMA0 panic=-1 quiet"),
        *("-serial", f"file:{run / 'console'}"),
        *("-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22"),
        *("-device", "virtio-net-device,netdev=net", "-device", "virtio-rng-device"),
    ]


@contextmanager
def powered(words: list[str], console: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The machine while it runs; it is killed whatever happens in the block, Ctrl-C included."""
    console.touch()
    with (console.parent / "qemu").open("wb") as said:
        # a session of its own, so that Ctrl-C reaches us and not the machine
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def greeted(process: subprocess.Popen[bytes], port: int, console: Path, timeout_s: float) -> None:
    """Return once the board's SSH server greets on `port`; RunnerError if it does not in time, or the machine ends."""
    end = time.monotonic() + timeout_s
    while (left := end - time.monotonic()) > 0:
        if process.poll() is not None:
            said = (console.parent / "qemu").read_text(errors="replace").strip().splitlines()
            raise RunnerError(f"the virtual board did not start: {(said or [last_line(console)])[-1]}")
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=min(2, left)) as connection:
                if connection.recv(4) == b"SSH-":
                    return
        except OSError:  # refused, reset or no answer: the guest is not that far
            pass
        time.sleep(0.1)
    raise RunnerError(f"the virtual board did not come up within {timeout_s:g} s: {last_line(console)}")


def last_line(console: Path) -> str:
    """What the board's console said last, or that it was silent."""
    lines = [line.strip() for line in console.read_text(errors="replace").splitlines() if line.strip()]
    return f"its console ends with '{lines[-1][:200]}'" if lines else "its console is empty"


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


# ---- qemu-user -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """Whether a model runs on a processor, and whether it answers there as here; no times, for they would mean nothing.

    why_not            what the runtime said, or how it died; None where it ran
    output_hash        of the answer there (`agent.output_hash`)
    is_same_hash       whether the answer here has the same: bit for bit equal
    is_alike           whether the answers agree within the tolerance asked for, or to a step where they are int8
    output_difference  |answer − this computer's| over |this computer's|, both at their largest; int8 may be a step off
    """

    model: str
    runtime: str
    target: str
    why_not: str | None
    output_hash: str | None = None
    is_same_hash: bool | None = None
    output_difference: float | None = None
    is_alike: bool | None = None


def measure_user(
    pairs: Sequence[tuple[Path, str]],
    board: str,
    *,
    threads: int = 1,
    inputs: Path | None = None,
    timeout_s: float = 600.0,
    tolerance: float = 1e-5,
) -> list[Trial]:
    """Whether each (model, runtime) runs on the processor of `board`, and answers as here; without `inputs` to noise.

    tolerance  how far the answers may be from this computer's, relative to their largest value
    Raises RunnerError where the model does not run here, or there is no emulator.
    """
    reason = is_set_up(board)
    if reason:
        raise RunnerError(reason)
    return [trial(model, runtime, board, threads, inputs, timeout_s, tolerance) for model, runtime in pairs]


def trial(
    model: Path, runtime: str, board: str, threads: int, inputs: Path | None, timeout_s: float, tolerance: float
) -> Trial:
    """One model of `measure_user`."""
    chosen = emulated(board)
    made = rootfs.ARCHITECTURES[chosen.architecture]
    python = rootfs.emulated(made, rootfs.home(chosen.architecture) / "root", chosen.processor)
    words = agent_words(
        model.absolute(), runtime, runs=1, warmup=0, threads=threads, inputs=inputs and inputs.absolute()
    )
    with scratch() as folder:
        here, there = folder / "here", folder / "there"
        known = reference(model, runtime, threads=threads, inputs=inputs, outputs=here, timeout_s=timeout_s)
        # -I: what PYTHONPATH names was built for this computer's processor
        command = [*python, "-I", str(AGENT), *words, "--outputs", str(there)]
        try:
            found = answer(*child(command, threads, runtime, timeout_s), runtime, model.name)["output_hash"]
        except RunnerError as error:
            return Trial(str(model), runtime, board, str(error))
        both = list(zip(load(here), load(there), strict=True))
        gap = max((difference(a, b) for a, b in both), default=0.0)
        alike = all(difference(a, b) <= allowed(a, tolerance) for a, b in both)
        return Trial(str(model), runtime, board, None, found, found == known.output_hash, gap, alike)


# ---- keys, made for one run -----------------------------------------------------------------------------------------


def credentials(run: Path, port: int) -> tuple[Address, list[newc.Entry]]:
    """How to reach the board, which key of it to expect, and the files that make it so on the board's side."""
    for name in ("user", "host"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "jettison", "-f", str(run / name)]
        command(words, run, "cannot make a key")
    known = f"[127.0.0.1]:{port} {(run / 'host.pub').read_text()}"
    (run / "known_hosts").write_text(known)
    options = (
        f"IdentityFile={run / 'user'}",
        "IdentitiesOnly=yes",
        "IdentityAgent=none",
        f"UserKnownHostsFile={run / 'known_hosts'}",
        "GlobalKnownHostsFile=/dev/null",
        "StrictHostKeyChecking=yes",
    )
    files = [
        newc.folder("root", 0o700),
        newc.folder("root/.ssh", 0o700),
        newc.file("root/.ssh/authorized_keys", (run / "user.pub").read_bytes(), 0o600),
        newc.file("etc/dropbear/host_key", dropbear_key((run / "host").read_text()), 0o600),
    ]
    return Address("127.0.0.1", port, "root", options, f"/{rootfs.PYTHON}"), files


def dropbear_key(openssh: str) -> bytes:
    """An unencrypted OpenSSH ed25519 private key as Dropbear stores it: its type and the 64 bytes of secret and public.

    OpenSSH's PROTOCOL.key: the strings "ssh-ed25519", public (32 bytes), secret and public (64), comment come last.
    """
    body = base64.b64decode("".join(line for line in openssh.splitlines() if not line.startswith("-----")))
    kind = len(b"ssh-ed25519").to_bytes(4, "big") + b"ssh-ed25519"
    secret = body[body.rindex(kind) + len(kind) + 4 + 32 :][: 4 + 64]
    return kind + secret

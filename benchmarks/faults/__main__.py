"""Every save of every command, killed at every step of it, on a full disk, and on one that nothing may be written to.

A command runs in a folder whose results are there from before. Every file operation of its run is a fault point:
opening, each write, fsync, rename, removal, a new folder. For each of them a child process is sent SIGKILL there, in a
write when half of its bytes are out. Then each result has to be the old one or the new one, to the byte (those that
tell the time: whole, by their own format), and the same command, run again, has to give the new ones and leave nothing
else. An interrupt has to be told in one line besides, with exit 130, and leaves nothing to remove.

    python -m benchmarks.faults [COMMAND...] [--every N] [--no-disks] [--interrupt]
"""

from __future__ import annotations

import argparse
import errno
import gc
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path

from benchmarks.faults import standins
from benchmarks.faults.points import Ended, run
from benchmarks.faults.saves import SAVES, Save
from targets.locks import swept

OLD = b"the file that was there before"
PAGE = 4096
UNSOUND = (ValueError, OSError, EOFError, zipfile.BadZipFile)  # of a file that is not whole


# ---- laws ------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Walked:
    """What became of a command: points tried, results that were neither old nor new, files that nobody asked for."""

    points: int
    lost: tuple[str, ...]
    left: tuple[str, ...]
    opened_in_place: tuple[str, ...]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, and what lies beside it where temporary files go."""
    found = [p for place in (folder, folder.parent / "tmp") for p in sorted(place.rglob("*"))]
    return {os.path.relpath(p, folder): p.read_bytes() for p in found if p.is_file()}


def renewed(folder: Path, save: Save) -> None:
    """The folder as it is before a run: old files of the results, and nothing else."""
    for place in (folder, folder.parent / "tmp"):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
    furnished(folder, save)


def furnished(folder: Path, save: Save) -> None:
    """Old files of the results, and what the command reads there."""
    for name in save.results:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(OLD)
    if save.reads:
        shutil.copy(folder.parent / "in" / save.reads, folder)


def is_whole(name: str, content: bytes) -> bool:
    """By the format that its name says."""
    try:
        match name.rpartition(".")[2]:
            case "json":
                json.loads(content)
            case "npz":
                with zipfile.ZipFile(io.BytesIO(content)) as file:
                    return file.testzip() is None
            case "html":
                return content.rstrip().endswith(b"</html>")
            case _:
                return False
    except UNSOUND:
        return False
    return True


@dataclass(frozen=True)
class Expected:
    """What a run that nothing hinders leaves: the new files, names of those that tell the time, the fault points."""

    new: Mapping[str, bytes]
    timed: frozenset[str]
    points: tuple[str, ...]


def expected(save: Save, folder: Path) -> Expected:
    """By two runs, which have to agree on what is there."""
    runs = []
    for _ in range(2):
        renewed(folder, save)
        ended = succeeded(save, folder)
        runs.append(contents(folder))
    timed = frozenset(n for n in runs[0] if runs[0][n] != runs[1].get(n))
    return Expected(runs[0], timed, ended.points)


def succeeded(save: Save, folder: Path) -> Ended:
    """A run that nothing hinders; what it had to import, the next ones find in this process. None of it has threads."""
    ended = run(save, folder)
    if ended.code:
        raise SystemExit(f"{' '.join(save.words)}: {ended.said}")
    with warnings.catch_warnings(action="ignore"):
        for name in ended.loaded:
            with suppress(ImportError):  # names that stand for others
                import_module(name)
    gc.freeze()  # or each child copies every page that its collector looks at
    return ended


def neither(found: Mapping[str, bytes], due: Expected, save: Save) -> list[str]:
    """Results that are neither the old file nor the new one; what a run goes on from is another at each moment."""
    return [
        name
        for name, new in due.new.items()
        if name in save.results or (name in found and not goes_on(name, save))
        if found.get(name) not in (OLD, new) and not (name in due.timed and is_whole(name, found.get(name, b"")))
    ]


def unequal(found: Mapping[str, bytes], due: Expected) -> list[str]:
    """Files that are not the new ones."""
    return [
        name
        for name, new in due.new.items()
        if found.get(name) != new and not (name in due.timed and is_whole(name, found.get(name, b"")))
    ]


def goes_on(name: str, save: Save) -> bool:
    """Whether an interrupted run may leave this file for the next one."""
    return any(fnmatch(name, pattern) for pattern in save.goes_on)


def walk(save: Save, work: Path, due: Expected, sent: signal.Signals, every: int = 1) -> Walked:
    """End the command at each `every`-th point, and run it again: that has to end as if nothing had been."""
    folder = work / "out"
    in_place = tuple(p for p in due.points if p.startswith("open ") and p.removeprefix("open ") in due.new)
    lost, left = list[str](), list[str]()
    tried = list(enumerate(due.points, 1))[::every]
    for at, point in tried:
        renewed(folder, save)
        ended = run(save, folder, at, sent)
        found = contents(folder)
        lost += [f"{n} at {point}" for n in neither(found, due, save)]
        if sent == signal.SIGINT:
            lost += [f"{wrong} at {point}" for wrong in unsaid(ended, 130)]
            left += [f"{n} at {point}" for n in found.keys() - due.new.keys() if not goes_on(n, save)]
        elif ended.code != -sent:
            lost.append(f"{point}: was not reached again, exit {ended.code}")
            continue
        again = run(save, folder)
        swept(work / "tmp")  # as whichever run needs a temporary folder next does
        found = contents(folder)
        lost += [f"{n} in the run after {point}" for n in unequal(found, due)]
        lost += [f"exit {again.code} after {point}: {again.said}"] if again.code else []
        left += [f"{n} after {point}" for n in found.keys() - due.new.keys()]
    return Walked(len(tried), tuple(lost), tuple(left), in_place)


def unsaid(ended: Ended, code: int) -> list[str]:
    """What is wrong with the end of a run that should have told why in one line, warnings apart.

    click ends the line of a terminal that shows ^C: an empty one.
    """
    lines = [line for line in ended.said.splitlines() if line and not line.startswith("jettison: warning")]
    return ([] if ended.code == code else [f"exit {ended.code}"]) + ([] if len(lines) == 1 else [f"{len(lines)} lines"])


def refused(save: Save, work: Path, due: Expected, ended: Ended) -> list[str]:
    """What is wrong with a run that could not write: one line, its exit code, no file that is neither old nor new."""
    found = contents(work / "out")
    return (
        unsaid(ended, save.refusal)
        + [f"{n} is lost" for n in neither(found, due, save)]
        + [f"{n} is left" for n in found.keys() - due.new.keys() if not goes_on(n, save)]
    )


def full(save: Save, work: Path, due: Expected) -> dict[str, list[str]]:
    """{kind of full disk: what is wrong}: files that may not grow, a small disk that fills, one that is read-only."""
    folder = work / "out"
    largest, name = max((len(due.new[n]), n) for n in save.results or due.new)
    nearly = largest * 9 // 10 if name in due.timed else largest - 1  # what tells the time is shorter at times
    tried = {}
    for limit in sorted({1, largest // 2, nearly}):
        renewed(folder, save)
        ended = run(save, folder, before=lambda limit=limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
        tried[f"files of {limit:,} bytes at most"] = refused(save, work, due, ended)
    shutil.rmtree(folder)
    folder.mkdir()
    if os.geteuid() or mount("-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)):
        return tried
    try:
        for pages in sorted({0, largest // 2 // PAGE}):
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            filled(folder, save, pages)
            tried[f"{pages} pages free"] = refused(save, work, due, without_filler(folder, run(save, folder)))
        mount("-o", "remount,ro", str(folder))
        tried["read-only"] = refused(save, work, due, run(save, folder))
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    return tried


def filled(folder: Path, save: Save, pages: int) -> None:
    """A disk with old results and so many free pages."""
    furnished(folder, save)
    room = os.statvfs(folder)
    with (folder / "filler").open("wb") as file:
        file.write(bytes((room.f_bfree - pages) * room.f_bsize))


def without_filler(folder: Path, ended: Ended) -> Ended:
    """The same, once what filled the disk is gone."""
    (folder / "filler").unlink()
    return ended


def mount(*words: str) -> int:
    """The exit code of mount; 1 where there is none."""
    try:
        return subprocess.run(["mount", *words], capture_output=True, check=False).returncode
    except FileNotFoundError:
        return errno.EPERM


# ---- inputs ----------------------------------------------------------------------------------------------------------
def prepared(work: Path, saves: Sequence[Save]) -> None:
    """in/: the shipped network, eight samples; of a plan with its network, a configuration, a report what is read."""
    import numpy as np

    from toolchain.shipped import triangles_squares_path
    from toolchain.synthetic import triangles_squares

    for name in ("in", "out", "tmp"):
        (work / name).mkdir()
    standins.made(work / "in")
    shutil.copy(triangles_squares_path(), work / "in/model.onnx")
    x, y = triangles_squares(8, seed=5)
    np.savez(work / "in/samples.npz", x=x, y=y, classes=np.array(["triangle", "square"]))
    for name, wanted in (
        ("prune", ("pruned.onnx", "plan.json")),
        ("init", ("jettison.toml",)),
        ("compress", ("report.json",)),
    ):
        if any(f"../in/{file}" in save.words or file == save.reads for save in saves for file in wanted):
            succeeded(SAVES[name], work / "out")
            for file in wanted:
                shutil.copy(work / "out" / file, work / "in")


def missing(save: Save) -> bool:
    """Whether the package that the command needs is not installed."""
    from importlib.util import find_spec

    return bool(save.needs) and find_spec(save.needs) is None


def main() -> None:
    """Print a line for each command, and what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commands", nargs="*", metavar="COMMAND", help=", ".join(SAVES))
    parser.add_argument("--every", type=int, default=1, metavar="N", help="each N-th fault point only")
    parser.add_argument("--no-disks", action="store_true", help="leave out the disks that cannot be written")
    parser.add_argument("--interrupt", action="store_true", help="send SIGINT, as Ctrl-C does, instead of SIGKILL")
    asked = parser.parse_args()
    sent = signal.SIGINT if asked.interrupt else signal.SIGKILL
    total, wrong, tries, right, is_sound = 0, 0, 0, 0, True
    print("command       fault points  files lost  files left  opened in place  cannot write  of it right  seconds")
    with tempfile.TemporaryDirectory(prefix="jettison-faults-") as name:
        work = Path(name).resolve()
        chosen = {command: SAVES[command] for command in asked.commands or SAVES}
        absent = {command for command, save in chosen.items() if missing(save)}
        prepared(work, [save for command, save in chosen.items() if command not in absent])
        for command, save in chosen.items():
            if command in absent:
                print(f"{command:<13} left out: {save.needs} is not installed")
                continue
            begun = time.monotonic()
            due = expected(save, work / "out")
            walked = walk(save, work, due, sent, asked.every)
            disks = {} if asked.no_disks else full(save, work, due)
            good = sum(not w for w in disks.values())
            print(
                f"{command:<13} {walked.points:>12}  {len(walked.lost):>10}  {len(walked.left):>10}  "
                f"{len(walked.opened_in_place):>15}  {len(disks):>12}  {good:>11}  {time.monotonic() - begun:>7.1f}",
                flush=True,
            )
            bad = [*walked.lost, *walked.left, *walked.opened_in_place]
            bad += [f"{kind}: {w}" for kind, ws in disks.items() for w in ws]
            is_sound = is_sound and not bad
            print("".join(f"    {line}\n" for line in bad), end="", flush=True)
            total, wrong, tries, right = (
                total + walked.points,
                wrong + len(walked.lost),
                tries + len(disks),
                right + good,
            )
    print(f"fault points tried {total}, files lost {wrong}; disks that cannot be written {tries}, right {right}")
    sys.exit(not is_sound)


if __name__ == "__main__":
    main()

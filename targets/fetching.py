"""Debian packages and wheels for another architecture, fetched by this computer's own apt and pip without root.

Packages come through a private apt directory (apt checks the signatures), wheels from the package index, both through
whatever proxies are configured. What was fetched stays with its SHA-256 in `fetched.json`; a file that is there and
unaltered is not fetched again. Wheels have the versions of the packages installed here: a board then differs from this
computer by its processor alone.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import msgspec

from targets.locks import scratch
from targets.measure import RunnerError

SUITE = "bookworm"  # has Python 3.11, for which all runtimes have wheels
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

# What to install for a program that is missing, in Debian's names.
PROVIDERS = {
    **dict.fromkeys(("qemu-aarch64", "qemu-arm"), "qemu-user"),
    **dict.fromkeys(("ssh", "ssh-keygen"), "openssh-client"),
    **dict.fromkeys(("apt-get", "apt-cache"), "apt"),
    **{"qemu-system-aarch64": "qemu-system-arm", "setpriv": "util-linux", "dpkg-deb": "dpkg"},
}


def missing(programs: Sequence[str]) -> str | None:
    """The first of `programs` that is not here, and how to get it; None if all are."""
    for program in programs:
        if shutil.which(program) is None:
            return f"{program} is not installed. Install it with: apt-get install {PROVIDERS[program]}"
    return None


def sha256(path: Path) -> str:
    """Of the file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Fetched:
    """A file as it was when it came."""

    file: str
    sha256: str


def kept(folder: Path) -> dict[str, Path]:
    """{what was asked for: file} of the fetched files in `folder` that still have the content that was recorded."""
    try:
        record = msgspec.json.decode((folder / "fetched.json").read_bytes(), type=dict[str, Fetched])
    except (FileNotFoundError, msgspec.DecodeError):
        return {}
    files = {asked: (folder / known.file, known.sha256) for asked, known in record.items()}
    return {asked: path for asked, (path, digest) in files.items() if path.is_file() and sha256(path) == digest}


def keep(folder: Path, files: Mapping[str, Path]) -> None:
    """Record the fetched `files` so that `kept` finds them."""
    record = {asked: Fetched(path.name, sha256(path)) for asked, path in sorted(files.items())}
    partial = folder / "fetched.json.partial"
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")
    partial.replace(folder / "fetched.json")


def packages(debian: str, wanted: Sequence[str], folder: Path, progress: Callable[[str], None]) -> dict[str, Path]:
    """{package: .deb in `folder`} for Debian's architecture `debian`; of a meta package the first it depends on."""
    folder.mkdir(parents=True, exist_ok=True)
    there = kept(folder)
    files = {asked: there[asked] for asked in wanted if asked in there}
    if len(files) == len(wanted):
        return files
    with private_apt(debian) as options:
        progress(f"reading Debian's package list for {debian}")
        command(["apt-get", *options, "-q", "update"], folder, "the Debian mirror does not answer")
        for asked in wanted:
            if asked not in files:
                progress(f"fetching {asked}")
                files[asked] = package(asked, options, folder)
                keep(folder, files)
    return {asked: files[asked] for asked in wanted}


def package(asked: str, options: Sequence[str], folder: Path) -> Path:
    """The .deb of one package; for a kernel's meta package, of the kernel it names."""
    name = asked
    if asked.startswith("linux-image-"):
        listed = command(["apt-cache", *options, "depends", asked], folder, f"Debian has no {asked}")
        (name,) = re.findall(r"Depends: (linux-image-\S+)", listed)
    with scratch(folder) as partial:
        command(["apt-get", *options, "-q", "download", name], partial, f"cannot fetch {name}")
        (file,) = partial.iterdir()
        return file.replace(folder / file.name)


@contextmanager
def private_apt(debian: str) -> Iterator[list[str]]:
    """Options that make apt work in a folder of its own, for another architecture; its proxies stay as configured."""
    if not KEYRING.is_file():
        raise RunnerError(f"{KEYRING} is missing. Install it with: apt-get install debian-archive-keyring")
    with scratch() as folder:
        for part in ("state/lists/partial", "cache/archives/partial"):
            (folder / part).mkdir(parents=True)
        (folder / "state/status").touch()
        (folder / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror()} {SUITE} main\n")
        facts = {
            "APT::Architecture": debian,
            "APT::Architectures": debian,
            "APT::Sandbox::User": "root",  # else apt run by root complains that its own user cannot write here
            "APT::Update::Error-Mode": "any",  # else a mirror that does not answer is a warning
            "Acquire::Retries": 3,
            "Dir::State": folder / "state",
            "Dir::State::status": folder / "state/status",
            "Dir::Cache": folder / "cache",
            "Dir::Etc::sourcelist": folder / "sources.list",
            "Dir::Etc::sourceparts": "-",
        }
        yield [word for option, value in facts.items() for word in ("-o", f"{option}={value}")]


def mirror() -> str:
    """The Debian mirror that this computer's own apt uses, else Debian's."""
    sources = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    text = "\n".join(source.read_text(errors="replace") for source in sources if source.is_file())
    found = re.findall(r"^(?:deb |URIs:).*?(https?://\S+/debian)/?(?:\s|$)", text, re.MULTILINE)
    return found[0] if found else "http://deb.debian.org/debian"


def wheels(tag: str, names: Sequence[str], folder: Path, progress: Callable[[str], None]) -> list[Path]:
    """The wheels of `names` for manylinux on `tag`, in the versions installed here; the newest of what is not."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {name: requirement(name) for name in names}
    files = {asked: path for asked, path in kept(folder).items() if asked in wanted.values()}
    platforms = [f"--platform=manylinux_2_{minor}_{tag}" for minor in range(36, 16, -1)]
    target = ["--only-binary=:all:", "--no-deps", "--python-version=3.11", "--implementation=cp", "--abi=cp311"]
    for asked in wanted.values():
        if asked not in files:
            progress(f"fetching {asked}")
            with scratch(folder) as partial:
                words = [sys.executable, "-m", "pip", "download", "-q", *target, *platforms, "-d", str(partial), asked]
                command(words, folder, f"the package index has no {asked} for {tag}, or does not answer")
                (file,) = partial.iterdir()
                files[asked] = file.replace(folder / file.name)
            keep(folder, files)
    return [files[asked] for asked in wanted.values()]


def requirement(name: str) -> str:
    """`name==version` of the package installed here, `name` where it is not."""
    try:
        return f"{name}=={metadata.version(name)}"
    except metadata.PackageNotFoundError:
        return name


def command(words: Sequence[str], folder: Path, what: str) -> str:
    """The stdout of a program run in `folder`; RunnerError, `what` and its last line, if it fails."""
    done = subprocess.run(words, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()] or ["no reason given"]
        errors = [line for line in said if line.startswith(("E:", "ERROR", "W: Failed"))] or said[-1:]
        raise RunnerError(f"{what}: {errors[0][:200]}. Check the network and the proxy, then run the set-up again")
    return done.stdout

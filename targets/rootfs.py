"""A small Debian for another processor, put together on this computer without root: for emulation, nothing else.

`root` is a tree that qemu-user runs programs from; `kernel` and `initramfs` boot the same tree as a virtual machine.
What is packed decides what is measured, so the set-up is done again when a package, a wheel or this recipe changes.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from targets import fetching, newc
from targets.fetching import command, missing, sha256
from targets.locks import alone, scratch
from targets.measure import RunnerError

PYTHON = "usr/bin/python3.11"
SITE = "usr/lib/python3/dist-packages"

PYTHON_PACKAGES = (
    *("libc6", "libgcc-s1", "libstdc++6", "zlib1g", "libexpat1", "libffi8", "libbz2-1.0", "liblzma5", "libssl3"),
    *("python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib"),
)
BOOT_PACKAGES = ("busybox-static", "dropbear-bin", "libcrypt1", "libtomcrypt1", "libtommath1", "libgmp10")
# Debian's own numpy, where the index has no wheel of it.
NUMPY_PACKAGES = ("python3-numpy", "libblas3", "liblapack3", "libgfortran5")

# In the order they are loaded; without a random number device the SSH server waits for entropy.
MODULES = ("virtio", "virtio_ring", "virtio_mmio", "failover", "net_failover", "virtio_net", "virtio-rng")

# Of no use on a board, and every byte of an initramfs is memory.
LEFT_OUT = (
    *("usr/share", "usr/lib/*/gconv", f"{SITE}/onnxruntime/tools", f"{SITE}/onnxruntime/transformers"),
    *(f"{SITE}/onnxruntime/quantization", f"{SITE}/ai_edge_litert/*WebGpu*", f"{SITE}/*/tests", f"{SITE}/*/*/tests"),
)

# onnxruntime reads the processor's name here, and crashes on import where it finds another architecture's.
CPUINFO = """processor\t: 0
BogoMIPS\t: 125.00
Features\t: {features}
CPU implementer\t: 0x41
CPU architecture: {architecture}
CPU variant\t: 0x0
CPU part\t: {part}
CPU revision\t: 4

"""


@dataclass(frozen=True)
class Architecture:
    """What a tree for one instruction set is made of.

    wheel_tag  the platform's name in wheels, after `manylinux_2_N_`
    wheels     their packages on the index, those of this computer's version
    kernel     Debian's meta package of a kernel for a virtual machine; None where only programs are emulated
    emulator   runs this set's programs on this computer; `processor` its -cpu for what is run at set-up
    """

    debian: str
    packages: tuple[str, ...]
    wheel_tag: str
    wheels: tuple[str, ...]
    kernel: str | None
    emulator: str
    processor: str
    cpuinfo: str


ARCHITECTURES = {
    "arm64": Architecture(
        debian="arm64",
        packages=PYTHON_PACKAGES + BOOT_PACKAGES,
        wheel_tag="aarch64",
        wheels=("numpy", "onnxruntime", "ai-edge-litert"),
        kernel="linux-image-cloud-arm64",
        emulator="qemu-aarch64",
        processor="cortex-a53",
        cpuinfo=CPUINFO.format(
            features="fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid", architecture=8, part="0xd03"
        ),
    ),
    "armhf": Architecture(
        debian="armhf",
        packages=PYTHON_PACKAGES + NUMPY_PACKAGES,
        wheel_tag="armv7l",
        wheels=("tflite-runtime",),
        kernel=None,
        emulator="qemu-arm",
        processor="cortex-a15",
        cpuinfo=CPUINFO.format(
            features="half thumb fastmult vfp edsp neon vfpv3 tls vfpv4", architecture=7, part="0xc0f"
        ),
    ),
}


def home(architecture: str) -> Path:
    """The cache folder of one architecture's tree; need not exist."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "jettison" / "boards" / architecture


def is_made(architecture: str) -> bool:
    """Whether `set_up` was done; not whether it would find something newer."""
    return (home(architecture) / "done.json").is_file()


def set_up(architecture: str, progress: Callable[[str], None]) -> Path:
    """The cache folder with `root` and, where it boots, `kernel` and `initramfs`; made if not there already.

    Needs qemu-user, apt and, for what is not in the cache, the network. Raises RunnerError, also while another run
    makes it.
    """
    made, folder = ARCHITECTURES[architecture], home(architecture)
    absent = missing([made.emulator, "apt-get", "apt-cache", "dpkg-deb"])
    if absent:
        raise RunnerError(absent)
    try:
        with alone(folder) as is_mine:
            if not is_mine:
                raise RunnerError(f"another run sets up {folder}. Wait for it, then run the set-up again")
            make(made, folder, progress)
    except OSError as error:
        way_out = "Make room, or set XDG_CACHE_HOME to another folder"
        raise RunnerError(f"cannot write {error.filename or folder}: {error.strerror}. {way_out}") from error
    return folder


def make(made: Architecture, folder: Path, progress: Callable[[str], None]) -> None:
    """What `set_up` promises, in a folder that is this run's alone; what a killed run left is made anew or removed."""
    wanted = made.packages + ((made.kernel,) if made.kernel else ())
    packages = fetching.packages(made.debian, wanted, folder / "debs", progress)
    wheels = fetching.wheels(made.wheel_tag, made.wheels, folder / "wheels", progress)
    done = folder / "done.json"
    parts = [*packages.values(), *wheels, Path(__file__), Path(newc.__file__)]
    contents = json.dumps({path.name: sha256(path) for path in parts}, indent=1) + "\n"
    if done.is_file() and done.read_text() == contents:
        return
    done.unlink(missing_ok=True)
    kernel = packages.pop(made.kernel) if made.kernel else None
    unpack(made, folder, packages.values(), wheels, progress)
    if kernel is not None:
        pack(folder, kernel, progress)
    partial = folder / "done.json.partial"
    partial.write_text(contents)
    partial.replace(done)


def unpack(
    made: Architecture, folder: Path, packages: Iterable[Path], wheels: Iterable[Path], progress: Callable[[str], None]
) -> None:
    """Make `root` in `folder`: packages and wheels unpacked, what a board has no use for left out, Python compiled."""
    progress("unpacking")
    root, partial = folder / "root", folder / "root.partial"
    shutil.rmtree(partial, ignore_errors=True)
    for package in packages:
        command(["dpkg-deb", "--extract", str(package), str(partial)], folder, f"cannot unpack {package.name}")
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as file:
            file.extractall(partial / SITE)
    for pattern in LEFT_OUT:
        for path in sorted(partial.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for library in partial.glob("usr/lib/*/*/lib*.so.3"):  # Debian's alternatives, which installing would link
        (library.parent.parent / library.name).symlink_to(Path(library.parent.name) / library.name)
    (partial / "proc").mkdir()
    (partial / "proc/cpuinfo").write_text(made.cpuinfo)
    progress("compiling Python's library in the emulator")  # on the board it would be done at every boot
    compiled = ["-m", "compileall", "-q", "-s", str(partial), "-p", "/", "--invalidation-mode", "unchecked-hash"]
    places = [str(partial / "usr/lib/python3.11"), str(partial / SITE)]
    command([*emulated(made, partial), *compiled, *places], folder, f"{made.emulator} cannot run Python")
    shutil.rmtree(root, ignore_errors=True)
    partial.replace(root)


def emulated(made: Architecture, root: Path, processor: str | None = None) -> list[str]:
    """The words before a Python command line that make it run on `processor`, from the tree `root`."""
    return [made.emulator, "-cpu", processor or made.processor, "-L", str(root), str(root / PYTHON)]


# ---- booting --------------------------------------------------------------------------------------------------------

INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
for module in MODULES; do insmod /modules/$module.ko || echo "cannot load $module"; done
ip link set lo up
ip link set eth0 up
ip address add 10.0.2.15/24 dev eth0
echo "board: up"
/usr/sbin/dropbear -F -s -j -k -p 22 -r /etc/dropbear/host_key
echo "board: the SSH server ended"
poweroff -f
"""


def pack(folder: Path, package: Path, progress: Callable[[str], None]) -> None:
    """Make `kernel` and `initramfs` in `folder` out of `root` and a kernel's package.

    The initramfs has no host key and lets nobody in: a run appends both (`newc` archives may follow one another).
    """
    progress("packing the initramfs")
    with scratch(folder) as partial:
        command(["dpkg-deb", "--extract", str(package), str(partial)], folder, f"cannot unpack {package.name}")
        (image,) = partial.glob("boot/vmlinuz-*")
        found = {path.stem: path for path in partial.glob("lib/modules/**/*.ko")}
        absent = [module for module in MODULES if module not in found]
        if absent:
            raise RunnerError(f"{package.name} has no module {absent[0]}: jettison does not know this kernel")
        entries = [
            *(newc.folder(name) for name in ("dev", "etc/dropbear", "modules", "root", "sys", "tmp")),
            newc.Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),  # init's own output, before devtmpfs
            newc.file("init", INIT.replace("MODULES", " ".join(MODULES)).encode(), 0o755),
            newc.file("etc/passwd", b"root:x:0:0::/root:/bin/sh\n"),
            newc.file("etc/group", b"root:x:0:\n"),
            newc.file("etc/shells", b"/bin/sh\n"),
            *(newc.file(f"modules/{module}.ko", found[module].read_bytes()) for module in MODULES),
        ]
        image.replace(folder / "kernel")
    with (folder / "initramfs.partial").open("wb") as file:
        # the tree first, with its folders: the kernel makes no parents
        file.writelines(newc.archive([*newc.tree(folder / "root"), *entries]))
    (folder / "initramfs.partial").replace(folder / "initramfs")

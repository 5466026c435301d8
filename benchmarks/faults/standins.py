"""Stand-ins for apt, dpkg, pip's index and an emulator: a board's files are fetched and built without a network."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

from targets.rootfs import ARCHITECTURES, MODULES

KERNEL = "linux-image-stand-in"
PROGRAMS = {
    "apt-get": 'for last; do :; done\ncase " $* " in *" download "*) echo "$last" > "${last}_1_arm64.deb";; esac',
    "apt-cache": 'echo "Depends: linux-image-1-stand-in"',
    "dpkg-deb": f"""
name=$(basename "$2")
mkdir -p "$3/usr/lib"
case $name in
linux-image*)
    mkdir -p "$3/boot" "$3/lib/modules"
    echo kernel > "$3/boot/vmlinuz-1"
    for module in {" ".join(MODULES)}; do echo "$module" > "$3/lib/modules/$module.ko"; done;;
*) cat "$2" > "$3/usr/lib/$name";;
esac""",
    "emulator": "",
}
BOARD = {
    "arm64": replace(
        ARCHITECTURES["arm64"],
        packages=("one", "two"),
        wheels=("stand_in",),
        kernel=KERNEL,
        emulator="emulator",
    )
}


def made(folder: Path) -> None:
    """bin/ with the programs, wheels/ with what pip finds, keyring.gpg."""
    for name in ("bin", "wheels"):
        (folder / name).mkdir()
    for name, script in PROGRAMS.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\nset -e\n{script}\n")
        (folder / "bin" / name).chmod(0o755)
    (folder / "keyring.gpg").touch()
    about = "stand_in-1.0.dist-info"
    with zipfile.ZipFile(folder / "wheels/stand_in-1.0-py3-none-any.whl", "w") as file:
        file.writestr("stand_in.py", "")
        file.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: stand_in\nVersion: 1.0\n")
        file.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{about}/RECORD", "")

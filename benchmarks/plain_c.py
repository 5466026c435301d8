"""Instructions of plain C kernels on processors without vectors: counted by QEMU, one by one.

    python -m benchmarks.plain_c

Each kernel of `plain_c.c` is compiled with clang at -O2 without vectorisation for five instruction sets, once as one
writes it by hand and once as TFLite's reference kernels are, and run in QEMU's user mode with one instruction a block,
every block in the log. What a program without the kernel takes is subtracted. The intervals over all of them are the
"plain-c" row of targets/kernels.py. There is no LEON among them (clang's linker makes no SPARC V8 program): its code
has an instruction more a product, for it cannot fuse.

Needs qemu-user (Debian) and clang for all of them in one wheel: pip install ziglang.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from toolchain.tables import show

SOURCE = Path(__file__).with_suffix(".c")
TARGETS = {  # processor: (clang's target, its processor, QEMU)
    "PowerPC 750": ("powerpc-linux-musleabihf", "750", "qemu-ppc"),
    "PowerPC e5500": ("powerpc64-linux-musl", "e5500", "qemu-ppc64"),
    "RISC-V RV64GC": ("riscv64-linux-musl", "generic_rv64+m+a+f+d+c", "qemu-riscv64"),
    "Cortex-A53": ("aarch64-linux-musl", "cortex_a53", "qemu-aarch64"),
    "Cortex-A9": ("arm-linux-musleabihf", "cortex_a9", "qemu-arm"),
}
INSIDE = 22 * 22  # of 8·3 × 8·3 taps over an image of 8 × 8, those that do not fall on its border
KERNELS = {  # kernel: (its arguments, what is counted, how many of them)
    "convolution": ("side, channels", "product", INSIDE * 16 * 16),
    "depthwise": ("side, channels", "product", INSIDE * 16),
    "dense": ("from, to", "product", 256 * 64),
    "elementwise": ("side, channels", "value", 8 * 8 * 16),
}
VARIANTS = ("by hand", "TFLite's reference")


def counted(folder: Path, processor: str, variant: int, kernel: str, arguments: str) -> int:
    """Instructions of a program that runs one kernel once."""
    target, cpu, qemu = TARGETS[processor]
    program = folder / "kernel"
    flags = ["-O2", "-fno-vectorize", "-fno-slp-vectorize", "-fno-sanitize=all", "-fno-stack-protector"]
    defined = [f"-DVARIANT={variant}", f"-DWHAT={kernel}", f"-DSIZES={arguments}"]
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", target, f"-mcpu={cpu}", "-nostdlib", "-static"]
    caches = dict.fromkeys(("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR"), str(folder / "cache"))
    made = subprocess.run(
        [*compiler, *flags, *defined, str(SOURCE), "-o", str(program)],
        env=os.environ | caches,
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        raise SystemExit(f"cannot compile for {processor}: {made.stderr.strip()[:300]}")
    log = folder / "log"
    subprocess.run([qemu, "-singlestep", "-d", "nochain,exec", "-D", str(log), str(program)], check=True)
    with log.open("rb") as lines:
        return sum(line.startswith(b"Trace") for line in lines)


def main() -> None:
    """Count everything and print the table, the interval of each kernel last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--format", choices=["table", "json", "csv", "md"], default="table")
    form = parser.parse_args().format
    missing = [qemu for _, _, qemu in TARGETS.values() if shutil.which(qemu) is None]
    if missing:
        raise SystemExit(f"{missing[0]} is not here: apt install qemu-user")
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for processor in TARGETS:
            for variant, spoken in enumerate(VARIANTS):
                bare = counted(folder, processor, variant, "nothing", "side, channels")
                each = {
                    kernel: (counted(folder, processor, variant, kernel, arguments) - bare) / count
                    for kernel, (arguments, _, count) in KERNELS.items()
                }
                rows.append({"processor": processor, "kernels": spoken} | each)
    for spoken, end in (("fewest", min), ("most", max)):
        rows.append({"processor": "all", "kernels": spoken} | {k: end(float(str(r[k])) for r in rows) for k in KERNELS})
    show(rows, form, "instructions per product; elementwise: per value")


if __name__ == "__main__":
    main()

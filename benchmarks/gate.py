"""What `jettison check` takes from a cold process, and what it loads: python -m benchmarks.gate

Flash, ram, params and macs of ONNX files of three sizes, and of a TFLite file; the median of ROUNDS runs, files in the
page cache. MiB is the peak of the whole process. The imports are what a run leaves in sys.modules, the standard library
apart.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from benchmarks.cold import Cold, cold
from benchmarks.networks import files
from toolchain.emit import to_tflite
from toolchain.model import load
from toolchain.shipped import triangles_squares_path
from toolchain.tables import show

ROUNDS = 7
LIMITS = {"flash": "1 GB", "ram": "1 GB", "params": 10**9, "macs": 10**11}
RUN = """
import sys
before = set(sys.modules)
from toolchain.cli import main
sys.argv = ["jettison", "check", "--config", sys.argv[1]]
try:
    main()
except SystemExit as done:
    assert not done.code
names = {name.partition(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names
print(*sorted(n for n in names if not n.startswith("_")))
"""


def configured(model: Path, folder: Path) -> Path:
    """A configuration that limits what can be counted in a file."""
    kept = {q: v for q, v in LIMITS.items() if model.suffix == ".onnx" or q != "macs"}
    lines = [f"{q} = {v!r}" for q, v in kept.items()]
    path = folder / f"{model.stem}{model.suffix}.toml"
    path.write_text("\n".join(["[[budget]]", f"model = {str(model)!r}", *lines]) + "\n")
    return path


def row(model: Path, folder: Path) -> dict[str, object]:
    """One model's line."""
    config = configured(model, folder)
    runs: list[Cold] = [cold(("-m", "toolchain.cli", "check", "--config", config)) for _ in range(ROUNDS + 1)][1:]
    seconds = sorted(run.seconds for run in runs)
    loaded = cold(("-c", RUN, config)).stdout.splitlines()[-1]
    return {
        "model": model.name,
        "MB": model.stat().st_size / 1e6,
        "s": statistics.median(seconds),
        "fastest": seconds[0],
        "slowest": seconds[-1],
        "processor s": statistics.median(run.cpu_seconds for run in runs),
        "peak MiB": statistics.median(run.peak_rss_bytes for run in runs) / 2**20,
        "loads": loaded,
    }


def main() -> None:
    """The table, as Markdown."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lite = folder / "mobilenetv2.tflite"
        known = files()
        to_tflite(load(known["MobileNetV2"])).write(lite)
        models = [triangles_squares_path(), known["MobileNetV2"], known["AlexNet-5"], lite]
        show([row(model, folder) for model in models], "md")


if __name__ == "__main__":
    main()

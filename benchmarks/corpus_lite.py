"""One network of a corpus from load to a TFLite file that is compared with onnxruntime: prints one JSON line.

    python -m benchmarks.corpus FOLDER --out lite.jsonl --jobs 1 --module benchmarks.corpus_lite
    python -m benchmarks.corpus_lite --table lite.jsonl

Time and memory are those of reading the ONNX file and writing the TFLite file, taken before any runtime is loaded;
`base` is what the process holds with its packages imported. The file is right if LiteRT answers within `tolerance` of
onnxruntime on the file as it was exported, with XNNPACK and with the reference kernels: 1e-5 of the largest output, or
20 times the network's own float noise (what onnxruntime's graph optimisations change).
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ai_edge_litert.schema_py_generated as schema

from toolchain.emit import lite_outputs, to_tflite
from toolchain.emit.tflite import LiteModel
from toolchain.errors import JettisonError, RunnerFailed, Unsupported
from toolchain.model import Model, load

KERNELS = {"XNNPACK": "BUILTIN", "reference": "BUILTIN_REF"}
SLACK = 64 * 1024  # bytes beside the weights
Row = dict[str, Any]


def case(path: Path) -> Row:
    """Everything that is told about one network."""
    row: Row = {"name": path.stem, "bytes": path.stat().st_size, "base_rss_bytes": memory("VmHWM")}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.tflite")
        try:
            begun = time.perf_counter()
            model = load(path)
            row["load_s"] = round(time.perf_counter() - begun, 4)
            lite = to_tflite(model)
            lite.write(file)
            row["seconds"] = round(time.perf_counter() - begun, 4)
        except Unsupported as error:
            return row | {"status": "refused", "reason": str(error)}
        row |= {"peak_rss_bytes": memory("VmHWM"), "file_bytes": file.stat().st_size, **contents(lite)}
        return row | compared(path, model, file)


def memory(field: str) -> int:
    """A line of what the kernel says of this process, in bytes."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def contents(lite: LiteModel) -> Row:
    """Weight bytes, each buffer once, and how often values are only moved."""
    file = schema.ModelT.InitFromPackedBuf(lite.data)
    graph, known = file.subgraphs[0], {v: k for k, v in vars(schema.BuiltinOperator).items()}
    used = {t.buffer for t in graph.tensors}
    sizes = [len(b.data) for i, b in enumerate(file.buffers) if i in used and b.data is not None]
    codes = Counter(known[file.operatorCodes[o.opcodeIndex].builtinCode] for o in graph.operators)
    return {"weight_bytes": sum(sizes), "ops": sum(codes.values()), "moves": codes["TRANSPOSE"], "codes": dict(codes)}


def compared(path: Path, model: Model, file: Path) -> Row:
    """How far LiteRT is from onnxruntime on the file as it was exported."""
    from benchmarks.corpus_case import NOISES, TOLERANCE, apart, family, feeds, originals, probes_of

    wanted, noise = originals(path, probes_of(path))
    row: Row = {"family": family(model), "noise": noise, "tolerance": max(TOLERANCE, NOISES * noise), "errors": {}}
    names = [str(v.name) for v in model.graph.outputs]
    for kernels, resolver in KERNELS.items():
        try:
            found = [lite_outputs(file, feed, resolver=resolver) for feed in feeds(path, model)]
        except RunnerFailed as error:
            return row | {"status": "crashed", "reason": f"{kernels}: {error}"}
        row["errors"][kernels] = apart([[y[n] for n in names] for y in found], wanted)
    worst = max(row["errors"].values())
    return row | {"error": worst, "status": "converted" if worst <= row["tolerance"] else "wrong", "reason": ""}


# ---- the table -----------------------------------------------------------------------------------------------------
def table(rows: Sequence[Row]) -> str:
    """Markdown: a line for each family, then what was not converted."""
    heads = ["family", "networks", "converted", "refused", "wrong", "crashed", "worst error", "file / weights",
             "CNNs with a TRANSPOSE", "s (worst)", "peak RSS / file, above 40 MB (worst)"]  # fmt: skip
    parts = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name in [*sorted({r.get("family", "unknown") for r in rows}), "all"]:
        parts.append(line_of(name, [r for r in rows if name in ("all", r.get("family", "unknown"))]))
    left = [r for r in rows if r["status"] != "converted"]
    return "\n".join([*parts, "", *(f"- {r['name']}: {r['status']}, {r['reason']}{r.get('errors', '')}" for r in left)])


def line_of(name: str, rows: Sequence[Row]) -> str:
    """Counts and the worst of a family."""
    status, done = Counter(r["status"] for r in rows), [r for r in rows if r["status"] == "converted"]
    large = [r["peak_rss_bytes"] / r["file_bytes"] for r in done if r["file_bytes"] > 40e6]
    sizes = [max(0, r["file_bytes"] - SLACK) / r["weight_bytes"] for r in done]
    seconds = [r["seconds"] for r in done]
    cells = [name, len(rows), status["converted"], status["refused"], status["wrong"],
             sum(status[s] for s in ("crashed", "timeout")), f"{max([r['error'] for r in done], default=0):.1e}",
             f"{max(sizes, default=0):.3f}", sum(r["moves"] > 0 for r in done if r["family"] == "CNN"),
             f"{statistics.median(seconds or [0]):.2f} ({max(seconds, default=0):.2f})",
             f"{statistics.median(large or [0]):.1f} ({max(large, default=0):.1f})"]  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, nargs="?")
    parser.add_argument("--table", type=Path, help="print the table of a file instead")
    asked = parser.parse_args()
    if asked.table is not None:
        from benchmarks.corpus import rows_of

        print(table(rows_of(asked.table)))
        return
    try:
        print(json.dumps(case(asked.path)))
    except JettisonError as error:
        print(json.dumps({"name": asked.path.stem, "status": "refused", "reason": str(error)}))


if __name__ == "__main__":
    main()

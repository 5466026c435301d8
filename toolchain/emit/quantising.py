"""Quantises a float TFLite file, in a process of its own: quantiser and runtime may crash or hang on a strange network.

quantising.py FOLDER. The folder holds float.tflite or float.onnx, calibration.npz and held_out.npz (arrays in ONNX's
axes, by input) and asked.json {"form", "threads"}; quantised.tflite or .onnx and found.json are written beside them.

Activations get the range with the least squared error on the calibration samples, inputs and outputs all of what they
take there: a clipped logit could tie. Weights are symmetric, with a scale for each channel, and rounded as `rounding`
says where there are samples. Accumulators and biases are 32-bit.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.emit.child import decoded, encoded, permutations
from toolchain.emit.deviation import SAMPLES, deviations, range_of
from toolchain.emit.lite_file import (
    closed,
    code_of,
    constant,
    halved,
    left_in_float,
    name_of,
    opened,
    ops,
    scales,
    type_of,
)
from toolchain.emit.rounding import Floats, nearest_plane, spread, windows
from toolchain.ops.pooling import LOWEST

Arrays = Mapping[str, NDArray[Any]]
Json = dict[str, Any]
KEPT = 1 << 18  # values of a tensor that its range is chosen on
SHRINKS = np.linspace(0.3, 1.0, 36)
ROWS = 8192  # windows of a convolution that its weights are rounded for, at most
WIDEST = 4608  # inputs of a layer up to which its weights make up for each other; all layers' means are corrected
MEMORY = 1 << 29  # bytes of windows held at a time
ROUNDED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def watched(path: Path, feeds: Arrays, names: Iterable[str], threads: int) -> Iterator[dict[str, Floats]]:
    """The tensors of these names as floats, one file batch after another; the last is filled up from the first."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=threads, experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    turned, wanted = permutations(str(path))["inputs"], set(names)
    details = {d["name"]: d for d in interpreter.get_tensor_details() if d["name"] in wanted}
    inputs = {d["name"]: d for d in interpreter.get_input_details()}
    samples = len(next(iter(feeds.values())))
    batch = min(int(d["shape"][0]) for d in inputs.values())
    for start in range(0, samples, batch):
        for name, detail in inputs.items():
            rows = feeds[name].take(range(start, start + batch), axis=0, mode="wrap")
            interpreter.set_tensor(
                detail["index"], encoded(rows.transpose(turned.get(name) or range(rows.ndim)), detail)
            )
        interpreter.invoke()
        yield {k: decoded(interpreter.get_tensor(d["index"]), d) for k, d in details.items()}


def ranges(path: Path, file: Any, feeds: Arrays, threads: int) -> dict[str, tuple[float, float]]:
    """Range of every computed float tensor, 0 among it."""
    graph = file.subgraphs[0]
    floats = [t for t in graph.tensors if type_of(t) == "FLOAT32" and constant(file, t) is None]
    ends = {name_of(graph.tensors[i]) for i in (*graph.inputs, *graph.outputs)}
    low, high = {name_of(t): 0.0 for t in floats}, {name_of(t): 0.0 for t in floats}
    some: dict[str, list[Floats]] = {name: [] for name in low}
    share, generator = KEPT // len(next(iter(feeds.values()))) + 1, np.random.default_rng(0)
    for found in watched(path, feeds, low, threads):
        for name, x in found.items():
            x = x if x.min() > LOWEST else x[x > LOWEST]  # what pads a maximum is no value of its range
            if not x.size:
                continue
            low[name], high[name] = min(low[name], float(x.min())), max(high[name], float(x.max()))
            some[name].append(x.reshape(-1)[generator.integers(x.size, size=share)] if x.size > share else x.ravel())
    closest = lambda n: least_error(low[n], high[n], np.concatenate(some[n]))
    return {n: (low[n], high[n]) if n in ends else closest(n) for n in low if some[n]}


def least_error(low: float, high: float, values: Floats) -> tuple[float, float]:
    """[low, high] shrunk as far as 8 bits then hold the values with the least squared error."""

    def error(shrink: float) -> float:
        step = shrink * (high - low) / 255
        zero = np.rint(-shrink * low / step)
        return float(np.square((np.clip(np.rint(values / step) + zero, 0, 255) - zero) * step - values).sum())

    best = min(SHRINKS[::-1], key=error) if high > low else 1.0
    return best * low, best * high


def integers(path: Path, source: Any, form: str, limits: Mapping[str, tuple[float, float]]) -> Any:
    """What ai-edge-quantizer makes of the float file, taken apart."""
    from ai_edge_quantizer import quantizer, recipe

    recipes = {"tflite-int8": recipe.static_wi8_ai8, "tflite-int8-weights": recipe.dynamic_wi8_afp32}
    unit = {name_of(t): [1] * len(t.shape) for t in source.subgraphs[0].tensors}  # it wants each tensor's rank
    known: Any = {
        n: {"min": np.full(unit[n], a), "max": np.full(unit[n], max(b, a + 1e-6))} for n, (a, b) in limits.items()
    }
    made = quantizer.Quantizer(path.read_bytes(), [*(rule := recipes[form]()), *map(for_products, rule)])
    return opened(
        bytes(
            made.quantize(known or None, enable_progress_bar=False, enable_progress_report=False).quantized_model or b""
        )
    )


def for_products(rule: Json) -> Json:
    """The quantiser's rule for BATCH_MATMUL: one scale, and in a dynamic-range file floats.

    Its kernels compute nonsense from a scale per channel, and take no int8 on the left of floats.
    """
    if "activation_tensor_config" not in rule["op_config"]:
        return rule | {"operation": "BATCH_MATMUL", "algorithm_key": "no_quantize"}
    weights = rule["op_config"]["weight_tensor_config"] | {"granularity": "TENSORWISE"}
    return rule | {"operation": "BATCH_MATMUL", "op_config": rule["op_config"] | {"weight_tensor_config": weights}}


# ---- weights -------------------------------------------------------------------------------------------------------
def round_weights(path: Path, source: Any, file: Any, feeds: Arrays, threads: int) -> None:
    """Round the weights of every layer anew, for the inputs it has on the calibration samples, and correct its bias."""
    layers = [o for o in ops(file) if code_of(file, o) in ROUNDED and has_integers(file, o)]
    originals = {name_of(t): t for t in source.subgraphs[0].tensors}
    samples = len(next(iter(feeds.values())))
    while layers:
        taken, free = [], MEMORY
        while layers and (not taken or free > 0):
            taken.append(layers.pop())
            free -= 4 * rows_for(file, taken[-1]) * inputs_of(file, taken[-1])
        seen: dict[int, list[Floats]] = {id(o): [] for o in taken}
        names = {id(o): float_name(file, o.inputs[0]) for o in taken}
        for number, found in enumerate(watched(path, feeds, names.values(), threads)):
            for o in taken:
                rows = rows_for(file, o) // samples + 1
                seen[id(o)].append(columns(file, o, found[names[id(o)]], rows, number))
        for o in taken:
            round_layer(source, originals, file, o, np.concatenate(seen.pop(id(o))))


def has_integers(file: Any, operator: Any) -> bool:
    """Whether a layer has int8 weights in the file, and a bias of its own."""
    types = [type_of(file.subgraphs[0].tensors[i]) for i in operator.inputs if i >= 0]
    held = [constant(file, file.subgraphs[0].tensors[i]) is not None for i in operator.inputs if i >= 0]
    return types[1:2] == ["INT8"] and held == [False, True, True]


def float_name(file: Any, tensor: int) -> str:
    """What the float file calls a tensor: the quantiser names what its own QUANTIZE makes of one."""
    made = (o.inputs[0] for o in ops(file) if code_of(file, o) == "QUANTIZE" and tensor in o.outputs)
    return name_of(file.subgraphs[0].tensors[next(made, tensor)])


def inputs_of(file: Any, operator: Any) -> int:
    """Numbers that a layer sees at a time."""
    x, w = (file.subgraphs[0].tensors[i] for i in operator.inputs[:2])
    return int(w.shape[1]) if code_of(file, operator) == "FULLY_CONNECTED" else int(np.prod(w.shape[1:3]) * x.shape[3])


def rows_for(file: Any, operator: Any) -> int:
    """Windows that are enough for a layer's covariance."""
    return min(ROWS, max(2048, 2 * inputs_of(file, operator)))


def columns(file: Any, operator: Any, x: Floats, rows: int, seed: int) -> Floats:
    """What a layer sees of a tensor: [rows, groups, inputs of one output channel]."""
    weights = file.subgraphs[0].tensors[operator.inputs[1]]
    if code_of(file, operator) == "FULLY_CONNECTED":
        return x.reshape(-1, 1, int(weights.shape[1]))
    seen = windows(x, (int(weights.shape[1]), int(weights.shape[2])), operator.builtinOptions, rows, seed)
    is_depthwise = code_of(file, operator) == "DEPTHWISE_CONV_2D"
    groups = x.shape[3] if is_depthwise else x.shape[3] // int(weights.shape[3])
    split = seen.reshape(*seen.shape[:3], groups, -1).transpose(0, 3, 1, 2, 4)
    return split.reshape(len(seen), groups, -1)


def round_layer(source: Any, originals: Mapping[str, Any], file: Any, operator: Any, seen: Floats) -> None:
    """Replace a layer's integers; seen [rows, groups, inputs of one output channel]."""
    from toolchain.emit.flatbuffer import Buffer

    x, w, b = (file.subgraphs[0].tensors[i] for i in operator.inputs[:3])
    axis = 3 if code_of(file, operator) == "DEPTHWISE_CONV_2D" else 0
    step, exact = scales(w).astype(np.float64), constant(source, originals[name_of(w)])
    integers, bias = constant(file, w), constant(file, b)
    if exact is None or integers is None or bias is None or len(step) not in (1, exact.shape[axis]):
        return
    flat = np.moveaxis(exact, axis, 0).reshape(exact.shape[axis], -1) / step[:, None]  # [out, in], in steps
    rounded = np.moveaxis(integers, axis, 0).reshape(flat.shape).copy()
    moved = np.zeros(len(flat))
    for group, outputs in enumerate(np.split(np.arange(len(flat)), seen.shape[1])):
        mean, covariance = spread(seen[:, group])
        if flat.shape[1] <= WIDEST:
            rounded[outputs] = nearest_plane(flat[outputs].astype(np.float32), covariance)
        moved[outputs] = (rounded[outputs] - flat[outputs]) @ mean
    is_float = bias.dtype == np.float32
    bias = bias - (moved * step if is_float else np.rint(moved / scales(x)[0]))
    bias = bias if is_float else np.clip(bias, -(2**31), 2**31 - 1)
    back = np.moveaxis(rounded.reshape(np.moveaxis(exact, axis, 0).shape), 0, axis)
    file.buffers[w.buffer] = Buffer(np.ascontiguousarray(back))
    file.buffers[b.buffer] = Buffer(bias.astype(np.float32 if is_float else np.int32))


# ---- what came of it -----------------------------------------------------------------------------------------------
def compared(before: Path, after: Path, feeds: Arrays, threads: int) -> Json:
    """`deviations` of every tensor that both files have."""
    file = opened(after.read_bytes())
    source = opened(before.read_bytes())
    weights = {name_of(t) for t in source.subgraphs[0].tensors if constant(source, t) is not None}
    named = {name_of(t): t for t in file.subgraphs[0].tensors if name_of(t) not in weights}
    inputs = {name_of(file.subgraphs[0].tensors[i]) for i in file.subgraphs[0].inputs}
    part = {k: v[:SAMPLES] for k, v in feeds.items()}
    pairs = zip(watched(before, part, named, threads), watched(after, part, named, threads), strict=True)
    return deviations(pairs, {n: limits_of(t) for n, t in named.items()}, named.keys() - inputs)


def limits_of(tensor: Any) -> tuple[float, float]:
    """What an int8 tensor can hold; all for a float one."""
    step = scales(tensor)
    if len(step) != 1:
        return -np.inf, np.inf
    return range_of(step[0], int(np.asarray(tensor.quantization.zeroPoint)[0]))


def loaded(path: Path) -> dict[str, NDArray[Any]]:
    """Arrays by input."""
    with np.load(path) as stored:
        return {k.removeprefix("x."): stored[k] for k in stored.files}


def lite(folder: Path, form: str, feeds: Arrays, held_out: Arrays, threads: int) -> Json:
    """Write quantised.tflite from float.tflite; what is found of it."""
    before, after = folder / "float.tflite", folder / "quantised.tflite"
    source = opened(before.read_bytes())
    if form == "tflite-float16":
        halved(file := source)
    else:
        file = integers(before, source, form, ranges(before, source, feeds, threads) if form == "tflite-int8" else {})
        if feeds:
            round_weights(before, source, file, feeds, threads)
    with after.open("wb") as written:
        written.writelines(closed(file))
    left = left_in_float(file) if form == "tflite-int8" else []
    return {"float_ops": left, **compared(before, after, held_out, threads)}


def main(folder: Path) -> None:
    """Quantise what lies in the folder; a refusal is its last line on stderr."""
    from toolchain.emit.qdq import onnx
    from toolchain.errors import JettisonError

    asked = json.loads((folder / "asked.json").read_text())
    feeds, held_out = loaded(folder / "calibration.npz"), loaded(folder / "held_out.npz")
    make = onnx if asked["form"].startswith("onnx") else lite
    try:
        found = make(folder, asked["form"], feeds, held_out, asked["threads"])
    except JettisonError as error:
        sys.exit(str(error))
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

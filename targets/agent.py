"""Run one model on this computer and print what it took as one JSON line: the same file on a laptop and on a board.

Needs Python 3.9, numpy and one runtime; nothing of jettison. A sample is one inference as an application does it:
inputs handed over, run, outputs readable as arrays; so runtimes which copy and those which do not are compared alike.
Before the samples come one first inference (`first_ns`) and the warm-up; the garbage collector is off for all of them.
Memory is resident memory of this process: the baseline has Python, numpy, the runtime's library and a given .npz in it
but no model; the peak is the kernel's high-water mark from there on, touched pages of a memory-mapped model included.
Times are integer nanoseconds, sizes bytes (good to some 100 KiB, as the kernel counts); what cannot be read is null.

Where a sensor of power or energy can be read, further inferences tell what one takes (`energy_uj`); with --ops others,
in a session that the runtime profiles, tell the time of each op.

On failure the line is {"error": KIND, "detail": TEXT} with exit status 1, KIND being missing, broken, inputs, load,
run, outputs or ops (the runtime cannot tell their times).
What a runtime writes to stdout goes to stderr, where lines `agent: PHASE` tell how far a crashed run came.
"""

from __future__ import annotations

import argparse
import bisect
import gc
import glob
import hashlib
import importlib
import json
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any


class AgentError(Exception):
    """This run cannot give a result: `kind` as in the module's docstring, `detail` one line for a person."""

    def __init__(self, kind: str, detail: object) -> None:
        lines = str(detail).strip().splitlines() or [type(detail).__name__]
        super().__init__(lines[0][:300])
        self.kind, self.detail = kind, lines[0][:300]


# ---- runtimes -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Input:
    """An input of a model: `dtype` is numpy's name for it, a free dimension of `shape` is None."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Loaded:
    """A model that is ready: `bind` takes {name: array} and gives the inference, a call that returns the outputs."""

    inputs: tuple[Input, ...]
    bind: Callable[[dict[str, Any]], Callable[[], list[Any]]]


ORT_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(bool)": "bool",
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


def ort_options(module: Any, threads: int) -> Any:
    """How onnxruntime runs a model: all graph optimisations on."""
    options = module.SessionOptions()
    options.graph_optimization_level = module.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A spinning pool is fast only while nothing else wants its cores (two threads beside one busy process: p90 4.9 ms
    # against 0.9 ms without spinning), and a board that flies shares them. One thread has no pool: no difference.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def open_ort(module: Any, path: str, threads: int) -> Loaded:
    """The model at `path` in onnxruntime's CPU provider."""
    session = module.InferenceSession(path, ort_options(module, threads), providers=["CPUExecutionProvider"])

    def described(value: Any) -> Input:
        shape = tuple(size if isinstance(size, int) and size >= 0 else None for size in value.shape)
        dtype: str = value.type
        return Input(value.name, ORT_DTYPES.get(dtype, dtype), shape)

    def bind(arrays: dict[str, Any]) -> Callable[[], list[Any]]:
        return lambda: session.run(None, arrays)

    return Loaded(tuple(described(value) for value in session.get_inputs()), bind)


def open_tflite(module: Any, path: str, threads: int) -> Loaded:
    """The model at `path` in a TFLite interpreter with its default delegate (XNNPACK)."""
    interpreter = module.Interpreter(model_path=path, num_threads=threads)
    interpreter.allocate_tensors()  # the delegate packs the weights here, so this belongs to the loading
    details = {detail["name"]: detail for detail in interpreter.get_input_details()}

    def described(detail: dict[str, Any]) -> Input:
        shape = detail["shape_signature"] if len(detail["shape_signature"]) else detail["shape"]
        dtype = getattr(detail["dtype"], "__name__", str(detail["dtype"]))
        return Input(detail["name"], dtype.rstrip("_"), tuple(int(size) if size >= 0 else None for size in shape))

    def bind(arrays: dict[str, Any]) -> Callable[[], list[Any]]:
        given = [(details[name], array) for name, array in arrays.items()]
        changed = [(detail["index"], array.shape) for detail, array in given if tuple(detail["shape"]) != array.shape]
        for index, shape in changed:
            interpreter.resize_tensor_input(index, shape, strict=True)
        if changed:
            interpreter.allocate_tensors()
        sets = [(detail["index"], array) for detail, array in given]
        gets = [detail["index"] for detail in interpreter.get_output_details()]

        def infer() -> list[Any]:
            for index, array in sets:
                interpreter.set_tensor(index, array)
            interpreter.invoke()
            return [interpreter.get_tensor(index) for index in gets]

        return infer

    return Loaded(tuple(described(detail) for detail in details.values()), bind)


# name -> (module to import, its package as installed, opener)
RUNTIMES: dict[str, tuple[str, str, Callable[[Any, str, int], Loaded]]] = {
    "ort": ("onnxruntime", "onnxruntime", open_ort),
    "litert": ("ai_edge_litert.interpreter", "ai-edge-litert", open_tflite),
    "tflite": ("tflite_runtime.interpreter", "tflite-runtime", open_tflite),
}


def imported(name: str) -> Any:
    """The module `name`; AgentError "missing" if it is not installed, "broken" if it is but does not import."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name in (name, name.partition(".")[0]):
            raise AgentError("missing", name.partition(".")[0]) from error
        raise AgentError("broken", error) from error
    except Exception as error:  # an extension built for another numpy raises whatever it likes
        raise AgentError("broken", error) from error


def version(module: Any, package: str) -> str | None:
    """The version of a runtime: what it says itself, else its package's (a distribution's copy may carry neither)."""
    try:
        return str(getattr(module, "__version__", None) or metadata.version(package))
    except metadata.PackageNotFoundError:
        return None


# ---- the share of each op -------------------------------------------------------------------------------------------


def profiled_ort(module: Any, path: str, threads: int, arrays: dict[str, Any], runs: int) -> list[dict[str, Any]]:
    """Median time of each node of the optimised graph over warm inferences: name, op, ns; in the order they run.

    onnxruntime tells whole microseconds of each run of a node, and the time of telling is in none of them.
    """
    with tempfile.TemporaryDirectory(prefix="jettison-ops-") as folder:
        options = ort_options(module, threads)
        options.enable_profiling = True
        options.profile_file_prefix = os.path.join(folder, "ops")
        session = module.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for _ in range(runs + 1):
            session.run(None, arrays)
        with open(session.end_profiling(), encoding="utf-8") as file:
            return node_times(json.load(file), runs)


def node_times(events: list[dict[str, Any]], runs: int) -> list[dict[str, Any]]:
    """What an onnxruntime profile says of the last `runs` inferences in it; a node in a loop has all its turns."""
    begins = sorted(event["ts"] for event in events if event["name"] == "model_run")[-runs:]
    times: dict[tuple[str, str], list[int]] = {}
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time") and event["ts"] >= begins[0]:
            key = (event["name"][: -len("_kernel_time")], event["args"]["op_name"])
            times.setdefault(key, [0] * runs)[bisect.bisect(begins, event["ts"]) - 1] += event["dur"]
    return [
        {"name": name, "op": op, "ns": round(1000 * percentile(sorted(each), 0.5))}
        for (name, op), each in times.items()
    ]


# The wheels of the TFLite runtimes are built without a way to their profiler.
PROFILERS: dict[str, Callable[..., list[dict[str, Any]]]] = {"ort": profiled_ort}


# ---- inputs and outputs ---------------------------------------------------------------------------------------------


def drawn(wanted: Input, random: Any) -> Any:
    """Values for an input: standard normal floats, or integers uniform over the type (8, 16 bit) or {0, 1} (wider).

    Wide integers are mostly indices, and 0 and 1 are in range of any table. A free first dimension becomes 1.
    Raises AgentError "inputs" for any other free dimension: a guess would decide the latency.
    """
    if None in wanted.shape[1:]:
        shown = ", ".join("?" if size is None else str(size) for size in wanted.shape)
        raise AgentError("inputs", f"input '{wanted.name}' is ({shown}): give its values as a .npz (--inputs)")
    shape = tuple(1 if size is None else size for size in wanted.shape)
    if wanted.dtype.startswith("float"):
        return random.standard_normal(shape).astype(wanted.dtype)
    if wanted.dtype.lstrip("u") in ("int8", "int16"):
        bits = int(wanted.dtype.partition("int")[2])
        low = 0 if wanted.dtype.startswith("u") else -(2 ** (bits - 1))
        return random.randint(low, low + 2**bits, shape, dtype=wanted.dtype)
    if wanted.dtype in ("bool", "int32", "int64", "uint32", "uint64"):
        return random.randint(0, 2, shape, dtype=wanted.dtype)
    raise AgentError("inputs", f"input '{wanted.name}' is {wanted.dtype}: give its values as a .npz (--inputs)")


def read_inputs(numpy: Any, path: str) -> dict[str, Any]:
    """The arrays of a .npz by name; pickled objects are refused."""
    with numpy.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def taken(wanted: Input, given: dict[str, Any], alone: bool) -> Any:
    """The array in `given` for an input, by name; where model and file have one each (`alone`) whatever its name."""
    array = next(iter(given.values())) if alone else given.get(wanted.name)
    if array is None:
        raise AgentError("inputs", f"input '{wanted.name}' is not among {sorted(given)}")
    kinds = (array.dtype.kind.replace("u", "i"), wanted.dtype.lstrip("u")[0])
    if array.dtype != wanted.dtype and kinds not in (("f", "f"), ("i", "i")):
        raise AgentError("inputs", f"input '{wanted.name}' is {array.dtype}, the model wants {wanted.dtype}")
    if len(array.shape) != len(wanted.shape) or any(
        size not in (None, array.shape[axis]) for axis, size in enumerate(wanted.shape)
    ):
        shown = ", ".join("?" if size is None else str(size) for size in wanted.shape)
        raise AgentError("inputs", f"input '{wanted.name}' is {array.shape}, the model wants ({shown})")
    converted = array.astype(wanted.dtype, order="C", copy=False)
    if kinds[0] == "i" and (converted != array).any():
        raise AgentError("inputs", f"input '{wanted.name}' has values beyond {wanted.dtype}")
    return converted


def save_outputs(numpy: Any, path: str, outputs: list[Any]) -> None:
    """Write each output as .npy, one behind the other: this needs no memory that would raise the peak."""
    with open(path, "wb") as file:
        for array in outputs:
            numpy.save(file, array, allow_pickle=False)


def output_hash(outputs: list[Any]) -> str:
    """SHA-256 over type, shape and bytes of each output in the model's order; equal hashes are equal answers."""
    digest = hashlib.sha256()
    for array in outputs:
        digest.update(f"{array.dtype.str}{tuple(array.shape)}".encode())
        digest.update(array)  # without a copy: this must not raise the peak
    return digest.hexdigest()


# ---- figures --------------------------------------------------------------------------------------------------------


def percentile(ordered: list[int], share: float) -> float:
    """The value that `share` (0..1) of the ascending samples lie below, linear between neighbours as in numpy."""
    position = share * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def spread(samples: list[int]) -> dict[str, int]:
    """min, mean, std (of the population), p50, p90, p95, p99, max of one or more samples, to whole units."""
    ordered = sorted(samples)
    mean = sum(ordered) / len(ordered)
    return {
        "min": ordered[0],
        "mean": round(mean),
        "std": round(math.sqrt(sum((sample - mean) ** 2 for sample in ordered) / len(ordered))),
        "p50": round(percentile(ordered, 0.5)),
        "p90": round(percentile(ordered, 0.9)),
        "p95": round(percentile(ordered, 0.95)),
        "p99": round(percentile(ordered, 0.99)),
        "max": ordered[-1],
    }


def noise(ns: dict[str, int]) -> float:
    """max(p90 − p50, p50 − min) / p50 of a `spread`: how far the median may be from what a repetition would give.

    Disturbance only adds time. A short one shows above the median; one that lasts lifts the median itself off the
    minimum and may leave p90 / p50 at 1.02 (seen on a shared core, p50 60 % too high). A few outliers do not enter.
    """
    return max(ns["p90"] - ns["p50"], ns["p50"] - ns["min"]) / max(ns["p50"], 1)


# ---- this computer --------------------------------------------------------------------------------------------------


def text_of(path: str) -> str | None:
    """The text of a small system file, or None where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip("\0\n ")
    except OSError:
        return None


def integers(pattern: str, base: int = 10) -> list[int]:
    """The integers in the system files that match `pattern`; files that cannot be read or hold none are left out."""
    found = []
    for path in sorted(glob.glob(pattern)):
        try:
            found.append(int(text_of(path) or "", base))
        except ValueError:
            continue
    return found


def cpu_model() -> str | None:
    """The processor's name: x86's `model name`, else what a board's kernel calls the board."""
    lines = [line.partition(":") for line in (text_of("/proc/cpuinfo") or "").splitlines()]
    facts = {key.strip().lower(): value.strip() for key, _, value in lines}
    names = ("model name", "cpu model", "model", "hardware", "uarch")
    known = [facts[name] for name in names if facts.get(name) and not facts[name].isdigit()]
    return known[0] if known else text_of("/proc/device-tree/model") or platform.processor() or None


def status_bytes(field: str) -> int | None:
    """A size from /proc/self/status, such as VmRSS or VmHWM."""
    for line in (text_of("/proc/self/status") or "").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return None


def reset_peak() -> str | None:
    """Lower VmHWM to the present and say what the peak then means; None where there is no such mark to read."""
    if status_bytes("VmHWM") is None:
        return None
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:  # a kernel without CONFIG_PROC_PAGE_MONITOR, or a container that hides it
        return "VmHWM since the process began"
    return "VmHWM since the baseline"


def slowdown_counts() -> tuple[list[int], int]:
    """How often the processor was slowed since boot: by its own thermal guard, and by the container's CPU quota."""
    group = (text_of("/proc/self/cgroup") or "").rpartition("0::")[2].partition("\n")[0]
    quota = [
        int(line.split()[1])
        for path in ("/sys/fs/cgroup" + group + "/cpu.stat", "/sys/fs/cgroup/cpu/cpu.stat")
        for line in (text_of(path) or "").splitlines()
        if line.startswith("nr_throttled ")
    ]
    return integers("/sys/devices/system/cpu/cpu*/thermal_throttle/*_throttle_count"), sum(quota)


def cooling_states() -> list[int]:
    """What holds the processor's clock down now: the kernel's CPU cooling devices, a Raspberry Pi's firmware."""
    states = []
    for path in glob.glob("/sys/class/thermal/cooling_device*"):
        kind = (text_of(path + "/type") or "").lower()
        if "cpu" in kind or kind == "processor":
            states += integers(path + "/cur_state")
    # bits 1-3: clock capped, throttled, soft temperature limit
    return states + [flags & 0xE for flags in integers("/sys/devices/platform/soc/soc:firmware/get_throttled", 16)]


def throttled(before: tuple[list[int], int], after: tuple[list[int], int], states: list[int]) -> bool | None:
    """Whether the processor was slowed between two `slowdown_counts`; None where nothing here would tell of heat."""
    if after != before or any(state > 0 for state in states):
        return True
    return False if after[0] or states else None


def host(core: int | None) -> dict[str, Any]:
    """Facts about this computer that a latency depends on; `core` is the pinned one."""
    zones = [milli for milli in integers("/sys/class/thermal/thermal_zone*/temp") if milli > 0]
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "kernel": f"{platform.system()} {platform.release()}",
        "cpu_model": cpu_model(),
        "cores": os.cpu_count(),
        "pinned_core": core,
        "governor": text_of(f"/sys/devices/system/cpu/cpu{core or 0}/cpufreq/scaling_governor"),
        "temperature_c": max(zones) / 1000 if zones else None,
        "load_1min": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


# ---- energy ---------------------------------------------------------------------------------------------------------

Meter = Callable[[], int]


def counters(root: str) -> dict[str, tuple[Meter, int]]:
    """Sensors that count microjoules, by name: how to read one, and where it starts again from 0 (0: not known)."""
    found: dict[str, tuple[Meter, int]] = {}
    for path in readable(root + "/powercap/*/energy_uj"):  # RAPL: of a package, and of its parts
        folder = os.path.dirname(path)
        wraps = integers(folder + "/max_energy_range_uj")
        found[sensor(folder)] = (reader(path), wraps[0] + 1 if wraps else 0)
    for path in readable(root + "/hwmon/hwmon*/energy*_input"):
        found[sensor(os.path.dirname(path), path)] = (reader(path), 0)
    return found


def powers(root: str) -> dict[str, Meter]:
    """Sensors that tell microwatts, by name: power itself (INA2xx), or volts and amperes of a channel (INA3221)."""
    found: dict[str, Meter] = {}
    for path in readable(root + "/hwmon/hwmon*/power*_input"):
        found[sensor(os.path.dirname(path), path)] = reader(path)
    for path in readable(root + "/hwmon/hwmon*/curr*_input"):
        volts = path.replace("/curr", "/in")
        if readable(volts) and not readable(path.replace("/curr", "/power")):
            found[sensor(os.path.dirname(path), volts)] = product(reader(path), reader(volts))  # mA · mV
    return found


def readable(pattern: str) -> list[str]:
    """The files of this pattern that hold a number for us: energy is often root's alone."""
    return [path for path in sorted(glob.glob(pattern)) if integers(path)]


def reader(path: str) -> Meter:
    """Reads the number in a file, now."""
    return lambda: int(text_of(path) or "0")


def product(one: Meter, other: Meter) -> Meter:
    """Reads two numbers and multiplies them."""
    return lambda: one() * other()


def sensor(folder: str, channel: str = "") -> str:
    """A sensor's name: its folder, its chip or zone, its channel's label or else file."""
    label = text_of(channel.replace("_input", "_label")) or os.path.basename(channel)
    return " ".join(word for word in (os.path.basename(folder), text_of(folder + "/name"), label) if word)


def energy(infer: Callable[[], list[Any]], root: str = "/sys/class", seconds: float = 1.0) -> dict[str, int] | None:
    """Microjoules of one inference by each sensor, idle power included; None where there is no sensor to read.

    Over at least `seconds` of inferences; power is read between them every 20 ms, as chips average it over some.
    """
    counting, telling = counters(root), powers(root)
    if not counting and not telling:
        return None
    clock, told = time.perf_counter_ns, {name: [read()] for name, read in telling.items()}
    begin = {name: read() for name, (read, _) in counting.items()}
    start = last = clock()
    count = busy_ns = 0
    while count == 0 or clock() - start < seconds * 1e9:
        before = clock()
        infer()
        now = clock()
        count, busy_ns = count + 1, busy_ns + now - before
        if now - last >= 20_000_000:
            for name, read in telling.items():
                told[name].append(read())
            last = clock()
    used = {}
    for name, (read, wraps) in counting.items():
        spent = read() - begin[name]
        used[name] = round((spent % wraps if wraps else spent) / count)
    # the first reading is of before
    microwatts = {name: sum(values[1:] or values) / len(values[1:] or values) for name, values in told.items()}
    return {**used, **{name: round(power * busy_ns / count / 1e9) for name, power in microwatts.items()}}


# ---- the run --------------------------------------------------------------------------------------------------------


def say(phase: str) -> None:
    """Leave a mark on stderr at once: after a crash the last mark is all that is known."""
    os.write(2, f"\nagent: {phase}\n".encode())  # a runtime may have left the line before unfinished


def pin() -> int | None:
    """Move this process to the highest-numbered core it may use and return it; None where that is not possible.

    The highest, because interrupts and daemons gather on core 0, and because the big cores come last on most boards.
    """
    try:
        core = max(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {core})
    except (AttributeError, OSError):  # not Linux, or a sandbox that forbids it; `pinned_core` will say null
        return None
    return core


def timed(infer: Callable[[], list[Any]], runs: int, min_seconds: float) -> list[int]:
    """Nanoseconds of each inference: at least `runs` of them, and for at least `min_seconds`."""
    clock = time.perf_counter_ns
    end = clock() + int(min_seconds * 1e9)
    samples = []
    while len(samples) < runs or clock() < end:
        start = clock()
        infer()
        samples.append(clock() - start)
    return samples


def took(kind: str, call: Callable[..., Any], *given: Any) -> tuple[Any, int]:
    """What `call(*given)` returns and the nanoseconds it took; whatever it raises becomes an AgentError of `kind`."""
    start = time.perf_counter_ns()
    try:
        return call(*given), time.perf_counter_ns() - start
    except AgentError:
        raise
    except Exception as error:  # each runtime has its own exceptions, and older ones raise bare RuntimeErrors
        raise AgentError(kind, error) from error


def run(asked: argparse.Namespace) -> dict[str, Any]:
    """Everything the module promises, as one record. Raises AgentError."""
    core = pin() if asked.pin else None
    say("importing")
    module_name, package, open_model = RUNTIMES[asked.runtime]
    numpy = imported("numpy")
    module = imported(module_name)
    # The legacy generator's stream is frozen: the same seed gives the same inputs, hence hashes, under every numpy.
    random = numpy.random.RandomState(asked.seed)
    given = took("inputs", read_inputs, numpy, asked.inputs)[0] if asked.inputs else None
    gc.collect()
    gc.disable()
    peak_is = reset_peak()
    baseline = status_bytes("VmRSS")

    say("loading")
    loaded, init_ns = took("load", open_model, module, asked.model, asked.threads)
    after_init = status_bytes("VmRSS")
    alone = given is not None and len(given) == len(loaded.inputs) == 1
    arrays = {i.name: drawn(i, random) if given is None else taken(i, given, alone) for i in loaded.inputs}

    say("running")
    infer, _ = took("run", loaded.bind, arrays)
    outputs, first_ns = took("run", infer)
    answer, _ = took("run", output_hash, outputs)
    if asked.outputs:
        took("outputs", save_outputs, numpy, asked.outputs, outputs)
    del outputs  # kept, they would raise the peak by their size
    before = slowdown_counts()
    took("run", timed, infer, asked.warmup, 0.0)
    samples, _ = took("run", timed, infer, asked.runs, asked.min_seconds)
    slowed = throttled(before, slowdown_counts(), cooling_states())
    peak = status_bytes("VmHWM")
    used, _ = took("run", energy, infer)
    ops = profiled(asked, module, arrays) if asked.ops else []
    gc.enable()

    say("closing")
    ns = spread(samples)
    return {
        "runtime": asked.runtime,
        "runtime_version": version(module, package),
        "threads": asked.threads,
        "runs": len(samples),
        "warmup": asked.warmup,
        "ns": ns,
        "peak_rss_bytes": peak,
        "noise": noise(ns),
        "init_ns": init_ns,
        "first_ns": first_ns,
        "rss_bytes": {"baseline": baseline, "after_init": after_init, "peak": peak, "peak_is": peak_is},
        "peak_over_baseline_bytes": None if peak is None or baseline is None else max(peak - baseline, 0),
        "input_shapes": {name: list(array.shape) for name, array in arrays.items()},
        "output_hash": answer,
        "throttled": slowed,
        "energy_uj": used,
        "ops": ops,
        "host": host(core),
        "samples_ns": samples,
    }


def profiled(asked: argparse.Namespace, module: Any, arrays: dict[str, Any]) -> list[dict[str, Any]]:
    """The time of each op; AgentError "ops" where the runtime cannot tell."""
    if asked.runtime not in PROFILERS:
        raise AgentError("ops", "its wheel is built without a way to its profiler")
    return took("run", PROFILERS[asked.runtime], module, asked.model, asked.threads, arrays, asked.ops)[0]


def count(least: int) -> Callable[[str], int]:
    """A reader of whole numbers from `least` up."""

    def whole_number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return int(text)

    return whole_number


def arguments(words: list[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description="Measure one model on this computer; one JSON line on stdout.")
    parser.add_argument("--model", required=True)
    parser.add_argument("--runtime", required=True, choices=sorted(RUNTIMES))
    parser.add_argument("--threads", type=count(1), default=1)
    parser.add_argument("--runs", type=count(1), default=100, help="timed inferences")
    parser.add_argument("--warmup", type=count(0), default=10, help="untimed ones after the first")
    parser.add_argument("--ops", type=count(0), default=0, help="further inferences that tell the time of each op")
    parser.add_argument("--min-seconds", type=float, default=0.0, help="go on for at least this long")
    parser.add_argument("--inputs", help=".npz with an array per input; without it seeded noise")
    parser.add_argument("--outputs", help="file for the first answer: an .npy for each output, one behind the other")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pin", action="store_true", help="stay on the highest-numbered core (one thread only)")
    asked = parser.parse_args(words)
    if asked.pin and asked.threads != 1:
        parser.error("--pin needs --threads 1")
    return asked


def main(words: list[str] | None = None) -> int:
    """Print the record of a run, or why there is none."""
    asked = arguments(words)
    # Runtimes and their plug-ins print where they like: keep stdout for the one line.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as stdout:
        os.dup2(2, 1)
        try:
            record, status = run(asked), 0
        except AgentError as error:
            record, status = {"error": error.kind, "detail": error.detail}, 1
        stdout.write(json.dumps(record) + "\n")
    return status


if __name__ == "__main__":
    sys.exit(main())

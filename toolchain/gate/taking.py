"""What has to be taken by running a file: instructions, latency, accuracy. Each is a figure, or an error: never a pass.

Whatever else runs on a computer makes a model slower, never faster. So latency is measured again until one measurement
is within its limit, `repeats` times at most, and the best one counts. A repetition may come down by as much as the best
median is above the fastest inference of all, or as the two best are apart, whichever is more; only a limit that is
below that too has failed. What slows every inference of all repeats alike cannot be told from a slow model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from toolchain.config import Accuracy, ConfigFile, Latency
from toolchain.errors import BadInput, RunnerFailed, UsageError
from toolchain.gate.counts import Figure, Subject, largest_layer
from toolchain.gate.limits import Limit
from toolchain.gate.verdicts import percent

if TYPE_CHECKING:
    from targets.measure import Measurement
    from targets.runners import Asked
    from toolchain.data import Samples
    from toolchain.model import Model


@contextmanager
def runners_as_errors() -> Iterator[None]:
    """A target that is none is the user's mistake; one that fails is its own."""
    from targets.board import BoardError
    from targets.link import AddressError
    from targets.measure import RunnerError
    from targets.runners import TargetError

    try:
        yield
    except (AddressError, BoardError, TargetError) as error:
        raise UsageError(str(error)) from error
    except RunnerError as error:
        raise RunnerFailed(str(error)) from error


def take(limit: Limit, subject: Subject, file: ConfigFile) -> Figure:
    """The figure of a limit that counting does not give."""
    return TAKERS[limit.quantity](limit, subject, file)


def instructions(limit: Limit, subject: Subject, file: ConfigFile) -> Figure:
    """Of one inference on an emulated board, which repeats on every computer."""
    from targets.runners import Asked

    found = measured(limit, subject, Asked())
    least = found.ns.p50 * (1 - found.noise)
    return Figure(found.ns.p50, found.grade, busiest(subject), found.noise, least, f"the median of {told(found)}")


def latency(limit: Limit, subject: Subject, file: ConfigFile) -> Figure:
    """The best of up to `repeats` measurements, which end with one within the limit."""
    from targets.runners import Asked

    asked = limit.taking
    assert isinstance(asked, Latency)
    tries: list[Measurement] = []
    while len(tries) < asked.repeats and not any(getattr(m.ns, asked.stat) <= limit.bound for m in tries):
        tries.append(measured(limit, subject, Asked(threads=asked.threads)))
    best, *others = sorted(tries, key=lambda m: getattr(m.ns, asked.stat))
    value = getattr(best.ns, asked.stat)
    falls = [
        1 - min(m.ns.min for m in tries) / max(best.ns.p50, 1),
        *(getattr(m.ns, asked.stat) / max(value, 1) - 1 for m in others[:1]),
    ]
    times = f", the best of {len(tries)} times" if others else ""
    note = f"{asked.stat} of {told(best)}{times}"
    return Figure(value, best.grade, busiest(subject), best.noise, max(value * (1 - max(falls)), 0.0), note)


def busiest(subject: Subject) -> str:
    """The layer with the most products, which is what time is mostly spent on; "" where they are not counted."""
    return "" if subject.model is None else largest_layer(subject.model, "macs", "multiply-accumulates").largest


def told(found: Measurement) -> str:
    """What a measurement says of itself."""
    runtime = f"{found.runtime} {found.runtime_version or ''}".rstrip()
    slowed = ", slowed by heat or a quota" if found.throttled else ""
    return f"{found.runs} runs in {runtime}, noise {percent(found.noise)}{slowed}"


KNOWN = {"instructions": "an emulated board, such as qemu-a53", "latency": "local or ssh://user@host"}


def measured(limit: Limit, subject: Subject, asked: Asked) -> Measurement:
    """One measurement; UsageError for a target that does not tell this quantity, RunnerFailed where none came."""
    from targets.measure import runtime_for
    from targets.runners import TELLS, measure_on, runner_of

    with runners_as_errors():
        if TELLS[runner_of(limit.target)] != limit.quantity:
            way_out = f"Its target is {KNOWN[limit.quantity]}"
            raise UsageError(f"{limit.quantity} is not told by '{limit.target}'", limit.place, way_out)
        (found,) = measure_on(limit.target, [(subject.path, runtime_for(subject.path))], asked)
    return found


def accuracy(limit: Limit, subject: Subject, file: ConfigFile) -> Figure:
    """The share of labelled samples that are answered rightly."""
    from toolchain.data import load_samples
    from toolchain.evaluate import evaluate

    asked, data = limit.taking, file.config.data
    assert isinstance(asked, Accuracy)
    tables = {"calibration": data.calibration, "validation": data.validation}
    named = tables.get(asked.data, asked.data)
    if named is None:
        raise UsageError(f"[data] has no {asked.data}", limit.place, f'Write [data] {asked.data} = "…"')
    reference = subject.model or dense(limit, file)
    samples = load_samples(file.beside(named), reference, data.pixels)
    if samples.labels is None:
        raise BadInput("has no labels, accuracy needs them", str(file.beside(named)), "Save them as the array y")
    found = evaluate(reference, samples) if subject.model is not None else None
    share = found.share if found is not None else lite_share(subject, reference, samples)
    return Figure(share, "measured", note=f"{len(samples)} samples of {named}")


def dense(limit: Limit, file: ConfigFile) -> Model:
    """The ONNX network that says what data a TFLite file takes."""
    from toolchain.model import load

    if file.config.model.path is None:
        raise UsageError(
            "the accuracy of a .tflite needs the network it came from", limit.place, "Write [model] path = …"
        )
    return load(file.beside(file.config.model.path), dict(file.config.model.input))


def lite_share(subject: Subject, reference: Model, samples: Samples) -> float:
    """Of the answers of a TFLite file, which runs in a child process."""
    from toolchain.emit.run import lite_outputs

    outputs = lite_outputs(subject.path, samples.inputs)
    answers = outputs[str(reference.graph.outputs[0].name)]
    return float((answers.reshape(len(samples), -1).argmax(axis=1) == samples.labels).mean())


TAKERS: dict[str, Callable[[Limit, Subject, ConfigFile], Figure]] = {
    "instructions": instructions,
    "latency": latency,
    "accuracy": accuracy,
}

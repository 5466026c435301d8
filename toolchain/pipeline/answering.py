"""What the networks of a chain answer, beside the one that each has to equal.

Emitted floats equal their network to rounding. Quantised ones are judged as they were when they were made: by the share
of samples with the same answer. What was trained or refitted equals no other network, and stays a matter of hashes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from toolchain import emit
from toolchain.compress.groups import analyse
from toolchain.compress.plan import load_plan
from toolchain.compress.surgery import mask
from toolchain.data import Samples
from toolchain.emit.quantise import QUANTISED
from toolchain.emit.run import onnx_outputs
from toolchain.model import Model, load
from toolchain.pipeline.chain import Artefact, Chain
from toolchain.pipeline.quantised import judgement

LEAST_SAME = 0.5  # of a quantised file's answers: fewer than that are not those of the same network
COPIES = ("export", "prune")  # commands whose files equal their source, or their source masked by their plan
TFLITE = ".tflite"


@dataclass(frozen=True)
class Answered:
    """How a file's answers compare.

    of      what they are compared with, "" where there is nothing
    off_by  largest difference over the largest output, of a float file
    same    share of samples with the same answer, of a quantised one
    passed  None for a file that was not run
    note    why, or by which rule
    """

    file: str
    of: str = ""
    off_by: float | None = None
    same: float | None = None
    passed: bool | None = None
    note: str = ""


def answered(chain: Chain, models: Mapping[Path, Model], samples: Samples, threads: int) -> Iterator[Answered]:
    """Every network of the chain.

    models  those that are loaded already: the first one of the chain at least
    """
    known = dict(models)
    for file in chain.networks:
        of, note = counterpart(chain, file)
        if of is None:
            yield Answered(file.path.name, note=f"hash only: {note}")
            continue
        if of.path not in known:
            known[of.path] = load(of.path)
        reference, name = known[of.path], of.path.name
        if is_masked(file):
            assert chain.plan is not None
            plan = load_plan(chain.plan.path, reference)
            channels = analyse(reference, plan.approximate)
            reference, name = mask(reference, channels, plan.labels(channels)), f"{name} masked by the plan"
        yield beside(file, reference, name, samples, threads)


def counterpart(chain: Chain, file: Artefact) -> tuple[Artefact | None, str]:
    """The network that a file has to equal, or None and why there is none."""
    if file.path.suffix == TFLITE or file.told.get("format"):
        of = chain.twin(file) or chain.source(file)
        return (of, "") if of.path.suffix == ".onnx" else (None, f"{of.path.name} is no ONNX file")
    if file.command not in COPIES:
        return None, f"{file.command or 'what made it'} changes what a network answers"
    if is_masked(file) and (chain.plan is None or chain.plan.told.get("sha256") != chain.source(file).sha256):
        return None, "there is no plan.json to mask its source by"
    return chain.source(file), ""


def is_masked(file: Artefact) -> bool:
    """Whether a file equals its source only where units of that are masked."""
    return file.command == "prune" and bool(file.told.get("plan_sha256"))


def beside(file: Artefact, reference: Model, name: str, samples: Samples, threads: int) -> Answered:
    """A file that is run."""
    if file.told.get("format") not in QUANTISED:
        found = emit.check(reference, file.path, samples.inputs, threads)
        return Answered(file.path.name, name, found.max_rel, None, found.passed)
    row = judgement(file.path, samples, onnx_outputs(reference, samples.inputs, threads), threads)
    note = f"{file.told['format']}: at least {100 * LEAST_SAME:.0f} % of {len(samples)} on {samples.name}"
    return Answered(file.path.name, name, None, row["same_answer"], row["same_answer"] >= LEAST_SAME, note)

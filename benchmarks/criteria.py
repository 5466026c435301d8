"""The table of criteria: accuracy of every criterion and rival, at equal multiply-accumulates, on four networks.

    python -m benchmarks.criteria_nets --out RUNS/nets
    python -m benchmarks.criteria --nets-folder RUNS/nets --out RUNS [--nets mnist …] [--stages pruned recovered …]
    python -m benchmarks.criteria_table RUNS/rows.jsonl

Every method says which units go so that at most a share of the multiply-accumulates is left. From there on all is the
same code: the cut file is evaluated (pruned), refitted by our least squares without labels (recovered), and that is
trained on (retrained). Rows are appended to OUT/rows.jsonl as they come; what is there is not done again. Validation is
there to choose by, test to be told.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from benchmarks.criteria_nets import SEEDS, Net, Splits, nets, torch_of
from benchmarks.reproduce.train_triangles_squares import to_onnx
from benchmarks.rivals.torch_pruning_budget import IMPORTANCE, cut
from toolchain.auto import TRIED, distance, outputs
from toolchain.compress.attribution import Workers
from toolchain.compress.criteria import CRITERIA, Evidence, rank
from toolchain.compress.groups import Channels, analyse
from toolchain.compress.plan import make_plan
from toolchain.compress.ranks import Ranks, load_ranks, save_ranks
from toolchain.compress.recover import recover
from toolchain.compress.surgery import prune
from toolchain.data import Samples
from toolchain.errors import OutOfReach
from toolchain.evaluate import answers, evaluate
from toolchain.model import Model, load, save
from toolchain.ops.units import Ids
from toolchain.profile import profile
from toolchain.retrain import Recipe, retrain

LEFT = (70, 50, 30, 10)  # percent of the multiply-accumulates
STAGES = ("pruned", "recovered", "retrained")
OURS = (
    "ig", "ig-signed", "ig-abs", "taylor", "l1", "l2", "activation", "apoz", "selectivity", "reconstruction",
    "random",
)  # fmt: skip
ONNXSIM = ("onnxsim-l2", "onnxsim-wanda")
REFITTED = tuple(f"{name}-refit" for name in ONNXSIM)  # with onnxsim's own ridge refit: recovered alone
TESTED = 5000  # images of a split, at most
CHOSEN = 1000  # images of validation, at most, by which an epoch is chosen


@dataclass
class Case:
    """One network of one seed, with what was found out about it."""

    about: Net
    seed: int
    file: Path
    folder: Path
    model: Model
    channels: Channels
    splits: Splits
    done: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)  # (plan, stage) -> row
    rivals: tuple[Model, Channels] | None = None
    dense_answers: list[Any] = field(default_factory=list)

    @property
    def ranked(self) -> Samples:
        """Images that criteria see, as many of each class as there are."""
        return self.calibration.balanced(self.about.ranked, self.seed)

    @property
    def calibration(self) -> Samples:
        """Images that recovery sees."""
        return self.splits.train.samples(np.sort(self.order[: self.about.calibration]))

    @property
    def tried(self) -> Samples:
        """Images that neither criteria nor recovery see: by the answers to them `auto` decides."""
        return self.splits.train.samples(np.sort(self.order[self.about.calibration :][:TRIED]))

    @property
    def order(self) -> Ids:
        """The training images, shuffled."""
        return np.random.default_rng(self.seed).permutation(len(self.splits.train.y))


@dataclass(frozen=True)
class Cut:
    """Units of a network that go, and the file without them."""

    dense: Model
    channels: Channels
    removed: Ids
    pruned: Model

    @property
    def plan(self) -> str:
        """The same for the same units of the same network."""
        return hashlib.sha256(self.dense.sha256.encode() + self.removed.astype(np.int64).tobytes()).hexdigest()[:16]


def opened(about: Net, seed: int, nets_folder: Path, folder: Path) -> Case:
    """Load a network and its images."""
    path = about.file(nets_folder, seed)
    model = load(path)
    case = Case(about, seed, path, folder, model, analyse(model), about.splits(seed))
    case.dense_answers = outputs(model, case.tried)
    return case


# ---- who goes ------------------------------------------------------------------------------------------------------
def by_criterion(case: Case, criterion: str, left: int) -> Cut | None:
    """Our plan at the budget, or None where alignment does not let it be met."""
    ranks = ranks_of(case, criterion)
    budget = f"macs<={left}%"
    try:
        plan = make_plan(case.model, case.channels, ranks.scores, ranks.dead, budget, case.about.align)
    except OutOfReach:
        return None
    removed = plan.labels(case.channels)
    return Cut(case.model, case.channels, removed, prune(case.model, case.channels, removed))


def ranks_of(case: Case, criterion: str) -> Ranks:
    """Scores by a criterion, kept in a file; attributions that criteria share are found once."""
    path = case.folder / "ranks" / f"{case.about.name}-{case.seed}-{criterion}.npz"
    if path.exists():
        return load_ranks(path, case.model, case.channels)
    folder = case.folder / "attributions" / f"{case.about.name}-{case.seed}{'-taylor' if 'taylor' in criterion else ''}"
    for made in (path.parent, folder):
        made.mkdir(parents=True, exist_ok=True)
    seen = case.ranked
    assert seen.labels is not None
    evidence = Evidence(
        case.model, case.channels, seen.inputs, seen.labels, seed=case.seed, steps=8, workers=Workers(folder=folder)
    )
    begun = time.perf_counter()
    ranks = rank(criterion, evidence)
    print(f"{path.stem}: {time.perf_counter() - begun:.1f} s", flush=True)
    save_ranks(ranks, path)
    return ranks


def by_torch_pruning(case: Case, name: str, left: int) -> Cut | None:
    """What Torch-Pruning leaves, exported from its module."""
    folder = case.folder / "rivals" / f"{case.about.name}-{case.seed}"
    if not (folder / f"{name}.done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        net = torch_of(case.about, case.file)
        seen = case.ranked
        assert seen.labels is not None
        step = 4 if case.about.align == "4" else 16
        found = cut(net, name, seen.inputs["image"], seen.labels, [p / 100 for p in LEFT], step)
        for percent, module in zip(LEFT, found, strict=True):
            if module is not None:
                made = to_onnx(name, module.steps, case.about.image, case.about.classes)  # type: ignore[arg-type]
                onnx.save(made, folder / f"{name}-{percent}.onnx")
        (folder / f"{name}.done").touch()
    return read_off(case.model, case.channels, folder / f"{name}-{left}.onnx")


def by_onnxsim(case: Case, name: str, left: int, python: Path) -> Cut | None:
    """What onnxsim leaves of the network as it simplifies it."""
    folder = case.folder / "rivals" / f"{case.about.name}-{case.seed}"
    simple = folder / "simple.onnx"
    if not (folder / "onnxsim.done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / "images.npz", x=case.ranked.inputs["image"][:128])
        source = folder / "dense.onnx"
        save(case.model, source, force=True)
        script = Path(__file__).parent / "rivals/onnxsim_budget.py"
        limits = [str(p / 100) for p in LEFT]
        subprocess.run(
            [python, script, source, folder / "images.npz", folder, "--limits", *limits],
            check=True,
            capture_output=True,
        )
        (folder / "onnxsim.done").touch()
    if case.rivals is None:
        model = load(simple)
        case.rivals = (model, analyse(model))
    stem = name.removeprefix("onnxsim-").replace("-refit", "")
    path = folder / f"{stem}-{left}.onnx"
    found = read_off(*case.rivals, path)
    if found is None or not name.endswith("-refit"):
        return found
    return Cut(found.dense, found.channels, found.removed, load(path.with_name(f"{path.stem}-refit.onnx")))


def read_off(dense: Model, channels: Channels, path: Path) -> Cut | None:
    """The units that a pruned file lacks, by the numbers of each unit that are left; None where there is no file.

    Raises ValueError unless our surgery makes the same network of them.
    """
    if not path.exists():
        return None
    other = load(path)
    removed = []
    for g in channels.groups:
        if g.kind == "position":
            continue
        slots = [s for s in g.slots if s.rows == 1 and len(channels.values[s.parameter].const_value.shape) == 1]  # type: ignore[union-attr]
        before, after = (
            np.stack([m.graph.initializers[s.parameter].const_value.numpy() for s in slots])  # type: ignore[union-attr]
            for m in (dense, other)
        )
        order = channels.labels.of(channels.values[slots[0].parameter], slots[0].axis)
        kept = {tuple(column) for column in after.T.tolist()}
        gone = np.array([tuple(column) not in kept for column in before.T.tolist()])
        if len(gone) - gone.sum() != after.shape[1]:
            raise ValueError(f"{path}: the units of {g.name} cannot be told apart")
        removed.append(order[gone])
    labels = np.concatenate(removed)
    pruned = prune(dense, channels, labels)
    probe = Samples(
        "", {k: np.random.default_rng(0).random((4, *v[1:]), np.float32) for k, v in shapes(dense).items()}, None
    )
    for (y,), (z,) in zip(answers(pruned, probe), answers(other, probe), strict=True):
        if np.abs(y - z).max() > 1e-4 * np.abs(z).max():
            raise ValueError(f"{path}: our cut of the same units gives other answers")
    return Cut(dense, channels, labels, other)


def shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """Shape of every input, the batch in front."""
    return {str(v.name): tuple(d if isinstance(d, int) else 1 for d in v.shape) for v in model.graph.inputs if v.shape}


def found_by(case: Case, method: str, left: int, python: Path) -> Cut | None:
    """The cut of any method."""
    if method in CRITERIA:
        return by_criterion(case, method, left)
    if method in IMPORTANCE:
        return by_torch_pruning(case, method, left)
    return by_onnxsim(case, method, left, python)


# ---- what becomes of it --------------------------------------------------------------------------------------------
def stages(case: Case, method: str, left: int, wanted: list[str], python: Path) -> Iterator[dict[str, Any]]:
    """A row for each stage of one cut."""
    about = {"net": case.about.name, "seed": case.seed, "method": method, "left": left}
    found = found_by(case, method, left, python)
    if found is None:
        yield from (about | {"stage": s, "validation": None, "test": None} for s in wanted)
        return
    macs = profile(found.pruned).macs / profile(found.dense).macs
    model: Callable[[str], Model] = lambda stage: {"pruned": pruned_of, "recovered": recovered, "retrained": retrained}[
        stage
    ](case, found)
    if method in REFITTED:
        wanted, model = [s for s in wanted if s == "recovered"], lambda stage: found.pruned
    for stage in wanted:
        key = (found.plan if method not in REFITTED else f"{found.plan}-{method}", stage)
        begun = time.perf_counter()
        if key not in case.done:
            made = model(stage)
            far = distance(case.dense_answers, outputs(made, case.tried), True)
            case.done[key] = {
                "distance": far.divergence,
                "changed": far.changed,
                "validation": evaluate(made, case.splits.validation.samples(slice(TESTED))).share,
                "test": evaluate(made, case.splits.test.samples(slice(TESTED))).share,
            }
        spent = round(time.perf_counter() - begun, 2)
        yield about | {"stage": stage, **case.done[key], "macs": round(macs, 4), "plan": key[0], "seconds": spent}


def pruned_of(case: Case, found: Cut) -> Model:
    return found.pruned


def recovered(case: Case, found: Cut) -> Model:
    pruned = prune(found.dense, found.channels, found.removed)
    return recover(found.dense, pruned, found.channels, found.removed, case.calibration.inputs, seed=case.seed)[0]


def retrained(case: Case, found: Cut) -> Model:
    """The recovered network, trained on labels by one recipe; validation chooses the epoch."""
    epochs, rate, images = case.about.again
    recipe = Recipe(epochs=epochs, batch=64, rate=rate, optimiser="adamw", seed=case.seed)
    augment = [] if case.about.augment is None else [case.about.augment]
    validation = case.splits.validation.samples(slice(CHOSEN))
    model = recovered(case, found)
    return retrain(model, case.splits.train.samples(slice(images)), validation, recipe, augment=augment)[0]


# ---- all of it -----------------------------------------------------------------------------------------------------
def main() -> None:
    """Append the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets-folder", type=Path, required=True, help="what criteria_nets wrote")
    parser.add_argument("--msl5", type=Path, help="folder that reproduce.train_msl5 wrote, for the net msl5")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--nets", nargs="+", default=["mnist", "residual", "shapes"])
    parser.add_argument("--methods", nargs="+", default=[*OURS, *IMPORTANCE, *ONNXSIM, *REFITTED])
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=STAGES)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--left", nargs="+", type=int, default=list(LEFT), choices=LEFT)
    parser.add_argument(
        "--onnxsim-python", type=Path, default=Path(sys.executable), help="of an environment with onnxsim"
    )
    asked = parser.parse_args()
    torch.set_num_threads(1)
    path = asked.out / "rows.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    key = lambda row: (row["net"], row["seed"], row["method"], row["left"], row["stage"])
    have = {key(row) for row in rows}
    known = nets(asked.msl5)
    for seed in asked.seeds:
        for name in asked.nets:
            about = known[name]
            case = opened(about, seed, asked.nets_folder if about.epochs else asked.msl5, asked.out)
            mine = [r for r in rows if (r["net"], r["seed"]) == (name, seed) and r["test"] is not None]
            case.done |= {
                (r["plan"], r["stage"]): {k: r[k] for k in ("validation", "test", "distance", "changed")} for r in mine
            }
            for method in asked.methods:
                for left in asked.left:
                    about_row = {"net": name, "seed": seed, "method": method, "left": left}
                    wanted = [s for s in asked.stages if key(about_row | {"stage": s}) not in have]
                    if method in REFITTED:
                        wanted = [s for s in wanted if s == "recovered"]
                    for row in stages(case, method, left, wanted, asked.onnxsim_python) if wanted else ():
                        with path.open("a") as file:
                            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()

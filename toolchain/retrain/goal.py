"""What training makes small: the loss of labels, the distance from a teacher's answers, or both.

A classifier follows its teacher's classes softened by a temperature T, T²·KL(teacher ‖ network) of Hinton et al. 2015,
eq. 2-4; any other network its answers, mean squared error by their variance, whatever unit they are in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from toolchain.compress.objective import Classes, objective_of
from toolchain.data import Samples
from toolchain.errors import BadInput, Unsupported, UsageError
from toolchain.model import Model
from toolchain.retrain.network import WAY_OUT
from toolchain.retrain.recipe import Recipe


@dataclass(frozen=True)
class Goal:
    """The loss of one network, read off the values `wanted` of its graph.

    spread  variance of each of the teacher's answers, by which squared errors are divided; () for classes
    """

    recipe: Recipe
    is_classes: bool
    wanted: tuple[str, ...]
    spread: tuple[float, ...] = ()

    def loss(self, found: Sequence[Tensor], labels: Tensor | None, taught: Sequence[Tensor] | None) -> Tensor:
        """Mean over a batch, of labels [b] and a teacher's values where there are any."""
        of_labels = None
        if labels is not None and self.is_classes:
            of_labels = F.cross_entropy(found[0], labels, label_smoothing=self.recipe.smoothing)
        if taught is None:
            assert of_labels is not None
            return of_labels
        of_teacher = self.distance(found, taught)
        if of_labels is None:
            return of_teacher
        return self.recipe.weight * of_teacher + (1 - self.recipe.weight) * of_labels

    def distance(self, found: Sequence[Tensor], taught: Sequence[Tensor]) -> Tensor:
        """How far the answers are from the teacher's."""
        if not self.is_classes:
            pairs = zip(found, taught, self.spread, strict=True)
            return torch.stack([F.mse_loss(y, z) / s for y, z, s in pairs]).sum()
        t = self.recipe.temperature
        mine, theirs = (F.log_softmax(v[0] / t, 1) for v in (found, taught))
        return t * t * F.kl_div(mine, theirs, log_target=True, reduction="batchmean")

    def score(
        self, found: Sequence[Tensor], labels: Tensor | None, taught: Sequence[Tensor] | None
    ) -> tuple[int | None, float]:
        """(right answers, mean loss) by the labels, without them by the teacher; None right without classes."""
        if not self.is_classes:
            assert taught is not None
            return None, float(self.distance(found, taught))
        chosen = found[0].argmax(1)
        if labels is not None:
            return int((chosen == labels).sum()), float(F.cross_entropy(found[0], labels))
        assert taught is not None
        return int((chosen == taught[0].argmax(1)).sum()), float(self.distance(found, taught))


def goal_of(model: Model, recipe: Recipe) -> Goal:
    """Classes for class scores, whatever softmax stands behind them; else every output of real values.

    Raises Unsupported for a fixed batch or outputs without real values, UsageError for a target that there is not.
    """
    if model.batch != "free":
        raise Unsupported(
            f"the batch is fixed at {model.batch}, as {model.held_by}",
            way_out="Export it with a free batch to retrain it",
        )
    try:
        found = objective_of(model, recipe.target)
    except Unsupported as error:
        raise Unsupported("no output has real values sample by sample to train for", way_out=WAY_OUT) from error
    return Goal(recipe, isinstance(found, Classes), tuple(str(v.name) for v in found.values))


def check(model: Model, goal: Goal, samples: Samples, validation: Samples | None, teacher: Model | None) -> None:
    """Raise where there is nothing to learn from, or where teacher, labels and model do not fit.

    UsageError without labels and teacher, or for a teacher with other inputs or outputs; BadInput for labels of one
    class, or of classes that the model does not have.
    """
    if teacher is not None:
        fits(model, teacher, goal)
        return
    if not goal.is_classes:
        raise UsageError(
            "the network has no class scores that labels could tell right from wrong",
            way_out="Give --teacher DENSE, whose answers it is to follow",
        )
    for part in (samples, validation):
        if part is not None and part.labels is None:
            raise UsageError(
                "there are no labels to train for", part.name, "Give labels y, or --teacher DENSE to follow its answers"
            )
    assert samples.labels is not None
    found = np.unique(samples.labels)
    if len(found) == 1:
        raise BadInput(
            f"every label is class {found[0]}: there is nothing to tell apart",
            samples.name,
            "Give samples of two classes or more, or --teacher DENSE",
        )


def fits(model: Model, teacher: Model, goal: Goal) -> None:
    """Raise UsageError unless a teacher reads and answers what the model does."""
    theirs = goal_of(teacher, goal.recipe)
    mine_answers, their_answers = answers(model), answers(teacher)
    if model.inputs != teacher.inputs:
        what = f"the teacher reads {teacher.inputs}, the model {model.inputs}"
    elif mine_answers != their_answers or theirs.is_classes != goal.is_classes:
        what = f"the teacher answers {their_answers}, the model {mine_answers}"
    else:
        return
    raise UsageError(what, way_out="Give the network that the model was cut from as --teacher")


def answers(model: Model) -> dict[str, tuple[str, ...]]:
    """Shape of each output without its batch axis."""
    return {str(v.name): tuple(map(str, v.shape or ()))[1:] for v in model.graph.outputs}

"""A model's graph as a torch module, node by node from the op table, and its weights written back.

What is trained: a float initializer that a node reads where its op learns (`learns` in the table). Added and multiplied
constants are weights too, unless they are one number (a scale, an ε), a mask of zeros and ones, or an attention mask
(`fixed`). Everything else that nodes read stays as it is; a BatchNormalization's statistics follow the batches in
train() (`follows`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import onnx_ir as ir
import torch
from torch import Tensor, nn

from toolchain.errors import Unsupported, UsageError
from toolchain.model import Model
from toolchain.ops.table import Op, find, where
from toolchain.profile import is_weight

WAY_OUT = "Train it in the framework that it comes from, or use jettison recover"


def is_trained(value: ir.Value) -> bool:
    """Whether training may change an initializer: see the module's first lines."""
    if not is_weight(value) or value.const_value is None:
        return False
    array, readers = value.const_value.numpy(), ((find(use.node), use.idx) for use in value.uses())
    return any(e is not None and i in (e.learns or ()) and not (e.fixed and e.fixed(array)) for e, i in readers)


def is_statistic(value: ir.Value) -> bool:
    """Whether a norm keeps its mean or variance here."""
    return any((entry := find(use.node)) is not None and use.idx in (entry.follows or ()) for use in value.uses())


@dataclass(frozen=True)
class Step:
    """One node: names of what it reads and makes, and of what nobody reads afterwards."""

    node: ir.Node
    entry: Op
    reads: tuple[str, ...]
    makes: tuple[str, ...]
    frees: tuple[str, ...]


class Network(nn.Module):
    """A model in torch: parameters and statistics bear the names of its initializers, with '.' written as %2E."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model, self.steps = model, steps_of(model.graph)
        self.inputs, self.outputs = ([str(v.name) for v in vs] for vs in (model.graph.inputs, model.graph.outputs))
        self.keys: dict[str, str] = {}
        for name, value in model.graph.initializers.items():
            key, tensor = key_of(name, self), tensor_of(value)
            if is_trained(value):
                self.register_parameter(key, nn.Parameter(tensor))
            else:
                self.register_buffer(key, tensor, persistent=is_statistic(value))
            self.keys[name] = key

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The model's outputs in order, a single one by itself."""
        found = self.values(inputs, self.outputs)
        return found[0] if len(found) == 1 else tuple(found)

    def values(self, inputs: Sequence[Tensor], wanted: Sequence[str]) -> list[Tensor]:
        """Any values of the graph by name, of inputs in the model's order."""
        held: dict[str, Any] = {name: getattr(self, key) for name, key in self.keys.items()}
        held |= dict(zip(self.inputs, inputs, strict=True))
        held[""] = None
        kept = set(wanted)
        for step in self.steps:
            made = self.made(step, [held[name] for name in step.reads])
            held.update(zip(step.makes, made if isinstance(made, (tuple, list)) else (made,), strict=False))
            for name in step.frees:
                if name not in kept:
                    held.pop(name, None)
        return [held[name] for name in wanted]

    def made(self, step: Step, read: list[Any]) -> Any:
        """What a node makes; while training a norm follows the batch unless its scale is frozen."""
        entry = step.entry
        is_still = entry.follows and not read[1].requires_grad
        rule = entry.trains if self.training and entry.trains is not None and not is_still else entry.torch
        assert rule is not None
        try:
            return rule(torch, step.node, read)
        except NotImplementedError as error:
            raise Unsupported(f"{where(step.node)} has no torch form: {error}", way_out=WAY_OUT) from error


def steps_of(graph: ir.Graph) -> list[Step]:
    """Every node in order; raises Unsupported for one without a torch form."""
    last: dict[str, int] = {}
    nodes = list(graph)
    for i, node in enumerate(nodes):
        for value in node.inputs:
            if value is not None and value.const_value is None:
                last[str(value.name)] = i
    found = []
    for i, node in enumerate(nodes):
        entry = find(node)
        if entry is None or entry.torch is None:
            raise Unsupported(f"{where(node)} has no torch form", way_out=WAY_OUT)
        reads = tuple("" if v is None else str(v.name) for v in node.inputs)
        makes = tuple(str(v.name) for v in node.outputs)
        frees = {r for r in reads if last.get(r) == i} | {m for m in makes if m not in last}
        found.append(Step(node, entry, reads, makes, tuple(frees)))
    return found


def key_of(name: str, module: nn.Module) -> str:
    """An initializer's name as torch allows it: percent-encoded where it has a dot or means something to a module."""
    key = name.replace("%", "%25").replace(".", "%2E")
    return f"%{ord(key[0]):02X}{key[1:]}" if hasattr(module, key) else key


def name_of(key: str) -> str:
    """The initializer of a parameter."""
    return unquote(key)


def tensor_of(value: ir.Value) -> Tensor:
    """A copy of an initializer."""
    assert value.const_value is not None
    array = value.const_value.numpy()
    try:
        return torch.from_numpy(array.copy())
    except TypeError as error:
        raise Unsupported(
            f"'{value.name}' is of type {array.dtype}, which torch does not read", way_out=WAY_OUT
        ) from error


def to_torch(model: Model) -> Network:
    """The model as a module: forward takes its inputs in order and returns its outputs.

    Raises Unsupported for a node without a torch form.
    """
    return Network(model).eval()


def from_torch(module: nn.Module) -> Model:
    """The model that `module` was made of with the weights and statistics that it has now: same names, same graph."""
    if not isinstance(module, Network):
        raise UsageError(
            f"{type(module).__name__} was not made by to_torch", way_out="Give the module that it returned"
        )
    clone = module.model.ir.clone()
    for key, tensor in module.state_dict().items():
        value = clone.graph.initializers[name_of(key)]
        assert value.const_value is not None
        array = tensor.detach().cpu().numpy().astype(value.const_value.dtype.numpy())
        value.const_value = ir.tensor(array.copy(), name=value.name)
    return module.model.with_ir(clone)

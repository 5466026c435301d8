"""Random networks over the op table: a list of whole numbers is a network, and a shorter or smaller one a simpler one.

Every node is run as it is added: one that onnxruntime refuses, whose values die, grow or jump (a floor next to its
step), or that has no TFLite rule, is taken back, and the network goes on without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from benchmarks.fuzz_blocks import BLOCKS
from toolchain.ops import OPS

PROBES = 11  # samples of each input: a number that is seldom the size of another axis
FIXED = 3  # samples of a network that takes no other number
LARGEST = 6000  # elements of a value
MOST_BLOCKS = 14
NUDGES = (1e-6, 1e-4)  # relative changes of a node's inputs
STEEPEST = 10.0  # by which a node may make it larger
OFTEN = ["unary"] * 7 + ["conv"] * 5 + ["reduced"] * 3  # blocks of many kinds, and those that turn and reorder axes
OFTEN += ["flatten", "transpose", "reshape", "concat", "cut", "dense"] * 2 + ["pool", "with_value", "compared"]
TYPES = {"f": TensorProto.FLOAT, "i": TensorProto.INT64, "b": TensorProto.BOOL}
OPSET = 20


class Unfit(Exception):
    """A node that is taken back."""


class Draft:
    """A network under construction.

    values  name -> what it is on the probes, [samples, ...]
    pool    names that later blocks may read
    """

    def __init__(self, choices: Sequence[int]) -> None:
        self.choices, self.at = choices, 0
        self.nodes: list[onnx.NodeProto] = []
        self.parameters: dict[str, np.ndarray] = {}
        self.values: dict[str, np.ndarray] = {}
        self.inputs: list[str] = []
        self.pool: list[str] = []
        self.blocks: list[str] = []

    # ---- choices -----------------------------------------------------------------------------------------------
    def upto(self, n: int) -> int:
        """A number from 0 to n − 1; 0 once the choices are used up."""
        found = self.choices[self.at] % n if self.at < len(self.choices) else 0
        self.at += 1
        return found

    def pick(self, options: Sequence[Any]) -> Any:
        """One of them."""
        return options[self.upto(len(options))]

    def flag(self) -> bool:
        """True half of the time."""
        return self.upto(2) == 1

    def c(self, *shape: int, low: float = -1.0) -> np.ndarray:
        """Weights in (low, 1)."""
        seed = [len(self.parameters), *shape]
        return np.random.default_rng(seed).uniform(low, 1, shape).astype(np.float32)

    def he(self, *shape: int, fan: int = 0) -> np.ndarray:
        """Weights that keep the size of what they meet."""
        return self.c(*shape) * np.float32(math.sqrt(3 / (fan or math.prod(shape[1:]))))

    # ---- values --------------------------------------------------------------------------------------------------
    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a value, the samples in front."""
        return self.values[name].shape

    def other(self, x: str) -> str:
        """Some value."""
        return self.pick([x, *reversed(self.pool)])

    def input(self, shape: tuple[int, ...]) -> None:
        """A graph input."""
        name = f"x{len(self.inputs)}"
        self.inputs.append(name)
        self.values[name] = np.random.default_rng([3, len(self.inputs)]).standard_normal((PROBES, *shape), np.float32)
        self.pool.append(name)

    def add(self, kind: str, *inputs: Any, out: int = 1, **attributes: Any) -> Any:
        """Add a node and run it; arrays are initializers, None an input left out. Raises Unfit."""
        if kind not in OPS or OPS[kind].lite is None:
            raise Unfit(kind)
        name, names = f"{kind}_{len(self.nodes)}", list[str]()
        for i, x in enumerate(inputs):
            if isinstance(x, np.ndarray | np.generic):
                self.parameters[f"{name}.{i}"] = np.asarray(x)
                names.append(f"{name}.{i}")
            else:
                names.append(x or "")
        outputs = [name, *(f"{name}:{i}" for i in range(1, out))]
        node = helper.make_node(kind, names, outputs, name=name, **attributes)
        found = self.run(node)
        self.nodes.append(node)
        self.values |= zip(outputs, found, strict=True)
        return name if out == 1 else outputs

    def run(self, node: onnx.NodeProto) -> list[np.ndarray]:
        """What a node makes of the probes; raises Unfit if that is of no use."""
        computed = [n for n in dict.fromkeys(node.input) if n in self.values]
        held = [n for n in dict.fromkeys(node.input) if n in self.parameters]
        known = [helper.make_tensor_value_info(n, TYPES[self.values[n].dtype.kind], self.shape(n)) for n in computed]
        ends = [helper.make_empty_tensor_value_info(n) for n in node.output]
        fixed = [numpy_helper.from_array(self.parameters[n], n) for n in held]
        graph = helper.make_graph([node], "node", known, ends, fixed)
        feeds = {n: self.values[n] for n in computed}
        try:
            runner = session(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10))
            found = runner.run(None, feeds)
            nudged = [runner.run(None, {k: shaken(v, by) for k, v in feeds.items()}) for by in NUDGES]
        except Exception as error:  # onnxruntime's errors share no base class
            raise Unfit(str(error)) from error
        for i, y in enumerate(found):
            size = np.abs(y).max() if y.size and y.dtype.kind == "f" else 1
            if not 0 < y.size <= PROBES * LARGEST or not 1e-4 < size < 1e4 or y.shape.count(PROBES) > 1:
                raise Unfit("size")
            for by, z in zip(NUDGES, (n[i] for n in nudged), strict=True):
                moved = (y != z).any() if y.dtype.kind != "f" else not np.abs(y - z).max() <= STEEPEST * by * size
                if moved:
                    raise Unfit("steep")
        return found

    def grow(self) -> None:
        """One block more; what does not fit leaves no trace."""
        kind = self.pick([*BLOCKS, *OFTEN])
        x = self.pool[-1] if self.upto(4) else self.pick(self.pool)
        before = list(self.nodes), list(self.pool), dict(self.values), dict(self.parameters)
        try:
            made = BLOCKS[kind](self, x)
            made = [made] if isinstance(made, str) else made
            for y in made:
                self.settle(y)
        except (Unfit, IndexError, ValueError, ZeroDivisionError):
            self.nodes, self.pool, self.values, self.parameters = before
        else:
            self.blocks.append(kind)

    def settle(self, y: str) -> None:
        """Put a value into the pool; one that does not tell the samples apart is dead."""
        array = self.values[y]
        if array.dtype.kind != "f" or array.shape[0] != PROBES or array.ndim > 6:
            raise Unfit("kind")
        if np.ptp(array, axis=0).max() < 1e-2 * np.abs(array).max():
            raise Unfit("dead")
        if np.abs(array).max() > 30:
            y = self.add("Mul", y, np.float32(1 / np.abs(array).max()))
        self.pool.append(y)

    def proto(self) -> onnx.ModelProto:
        """The file: the last value is an output, and perhaps one or two before it; now and then its batch is fixed."""
        made = [y for y in self.pool if y not in self.inputs] or [self.add("Relu", self.pool[-1])]
        ends = list(dict.fromkeys([made[-1], *(self.pick(made) for _ in range(self.upto(3)))]))
        batch = FIXED if self.upto(5) == 1 else "N"
        sides = [
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, [batch, *self.shape(n)[1:]]) for n in side]
            for side in (self.inputs, ends)
        ]
        held = [numpy_helper.from_array(a, n) for n, a in self.parameters.items()]
        graph = helper.make_graph(self.nodes, "random", *sides, held)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def session(proto: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def shaken(x: np.ndarray, by: float) -> np.ndarray:
    """A value as other kernels might round it."""
    if x.dtype.kind != "f":
        return x
    noise = np.random.default_rng(x.size).uniform(-1, 1, x.shape)
    return (x + by * np.abs(x).max() * noise).astype(np.float32)


def network(choices: Sequence[int]) -> Draft:
    """The network of these choices."""
    g = Draft(choices)
    kinds: list[Callable[[], tuple[int, ...]]] = [
        lambda: (2 + g.upto(5),),
        lambda: (1 + g.upto(6), 4 + g.upto(6), 4 + g.upto(6)),
        lambda: (2 + g.upto(6), 3 + g.upto(6)),
        lambda: (3, 4, 4),
        lambda: (4, 4, 4),
        lambda: (1 + g.upto(3), 2 + g.upto(3), 3 + g.upto(3), 3 + g.upto(3)),
    ]
    first = g.pick(kinds)()
    g.input(first)
    for _ in range((0, 0, 1, 2)[g.upto(4)]):
        g.input(first if g.flag() else g.pick(kinds)())
    for _ in range(2 + g.upto(MOST_BLOCKS)):
        for _ in range(4):  # what does not fit is replaced
            count = len(g.blocks)
            g.grow()
            if len(g.blocks) > count:
                break
    return g

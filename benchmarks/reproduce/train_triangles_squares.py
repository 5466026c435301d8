"""Train the small network that ships with jettison and write toolchain/shipped/triangles_squares.onnx.

It is meant for `jettison demo`: over-sized for its task, and with one of each thing that structured pruning has to see
through: conv + BatchNormalization + ReLU, a residual addition, a depthwise convolution, max pooling, and a Flatten
whose positions feed a dense layer. The recipe is an ordinary one: Adam, half a cosine, fresh images every epoch.

The ONNX file is written node by node, because exporters fold BatchNormalization into its convolution and name
parameters after themselves. One table, OPS, says what each torch layer is in ONNX.

    python -m benchmarks.reproduce.train_triangles_squares
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from toolchain.shipped import triangles_squares_path
from toolchain.synthetic import CLASSES, Images, triangles_squares

SIZE = 32
EPOCHS, EPOCH_IMAGES, BATCH, RATE, DROPOUT = 5, 20_000, 64, 1e-3, 0.1
# Seeds of triangles_squares: epoch e of run s draws from 1000 (s + 1) + e, so that all below 1000 stay unseen.
TEST_SEED, TEST_IMAGES = 0, 10_000


class Add(nn.Module):
    """The sum of two values, as a layer so that OPS can name it."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


@dataclass(frozen=True)
class Step:
    """A layer, its name, and the names of the steps that feed it; "image" is the network's input."""

    name: str
    inputs: tuple[str, ...]
    layer: nn.Module


class Network(nn.Module):
    """Steps in topological order; the last one is the output."""

    def __init__(self, steps: tuple[Step, ...]) -> None:
        super().__init__()
        self.steps = steps
        self.layers = nn.ModuleDict({step.name: step.layer for step in steps})

    def forward(self, image: Tensor) -> Tensor:
        values = {"image": image}
        for step in self.steps:
            values[step.name] = step.layer(*(values[name] for name in step.inputs))
        return values[self.steps[-1].name]


def network(dropout: float) -> Network:
    """[n, 1, 32, 32] -> logits [n, 2]; 196,418 parameters and 704 running statistics.

    conv1-pool1-conv2-(conv3-conv4 + skip)-pool2-depthwise-pointwise-pool3-flatten 1024-dense1 96-dense2 2
    dropout  share of whole channels zeroed before conv2, conv3, conv4, conv5 and dense1, in training only
    """
    conv = lambda fan_in, fan_out, kernel, **more: nn.Conv2d(
        fan_in, fan_out, kernel, padding=kernel // 2, bias=False, **more
    )
    return Network(
        (
            *conv_block(1, "image", conv(1, 32, 3)),
            Step("pool1", ("relu1",), nn.MaxPool2d(2)),
            Step("drop1", ("pool1",), nn.Dropout2d(dropout)),
            *conv_block(2, "drop1", conv(32, 64, 3)),
            Step("drop2", ("relu2",), nn.Dropout2d(dropout)),
            *conv_block(3, "drop2", conv(64, 64, 3)),
            Step("drop3", ("relu3",), nn.Dropout2d(dropout)),
            *conv_block(4, "drop3", conv(64, 64, 3))[:2],
            Step("add", ("drop2", "bn4"), Add()),
            Step("relu4", ("add",), nn.ReLU()),
            Step("pool2", ("relu4",), nn.MaxPool2d(2)),
            Step("drop4", ("pool2",), nn.Dropout2d(dropout)),
            *conv_block(5, "drop4", conv(64, 64, 3, groups=64)),
            *conv_block(6, "relu5", conv(64, 64, 1)),
            Step("pool3", ("relu6",), nn.MaxPool2d(2)),
            Step("drop5", ("pool3",), nn.Dropout2d(dropout)),
            Step("flatten", ("drop5",), nn.Flatten()),
            Step("dense1", ("flatten",), nn.Linear(64 * 4 * 4, 96)),
            Step("relu7", ("dense1",), nn.ReLU()),
            Step("dense2", ("relu7",), nn.Linear(96, len(CLASSES))),
        )
    )


def conv_block(number: int, source: str, conv: nn.Conv2d) -> tuple[Step, Step, Step]:
    """conv, BatchNorm, ReLU, named by their number."""
    return (
        Step(f"conv{number}", (source,), conv),
        Step(f"bn{number}", (f"conv{number}",), nn.BatchNorm2d(conv.out_channels)),
        Step(f"relu{number}", (f"bn{number}",), nn.ReLU()),
    )


def _pair(value: int | tuple[int, ...]) -> list[int]:
    return [value] * 2 if isinstance(value, int) else list(value)


# The ONNX op of a torch layer and its attributes. Parameters follow in the order of PARAMETERS, which is ONNX's too.
OPS: dict[type[nn.Module], tuple[str, Callable[..., dict[str, object]]]] = {
    nn.Conv2d: (
        "Conv",
        lambda conv: {
            "kernel_shape": _pair(conv.kernel_size),
            "strides": _pair(conv.stride),
            "pads": _pair(conv.padding) * 2,
            "group": conv.groups,
        },
    ),
    nn.BatchNorm2d: ("BatchNormalization", lambda norm: {"epsilon": norm.eps}),
    nn.ReLU: ("Relu", lambda relu: {}),
    nn.MaxPool2d: ("MaxPool", lambda pool: {"kernel_shape": _pair(pool.kernel_size), "strides": _pair(pool.stride)}),
    nn.AdaptiveAvgPool2d: ("GlobalAveragePool", lambda pool: {}),
    nn.Flatten: ("Flatten", lambda flatten: {"axis": 1}),
    nn.Linear: ("Gemm", lambda dense: {"transB": 1}),
    Add: ("Add", lambda add: {}),
}
PARAMETERS = ("weight", "bias", "running_mean", "running_var")


def to_onnx(name: str, steps: tuple[Step, ...], image: tuple[int, ...], n_classes: int) -> onnx.ModelProto:
    """`steps` in inference mode as ONNX, opset 17: image [N, *image] float32 -> logits [N, n_classes]; N stays free.

    Step s becomes node s with output "s.out" (the last: "logits"), parameter p of it initializer "s.p".
    """
    values = {"image": "image"}
    nodes, parameters = [], []
    for step in steps:
        if isinstance(step.layer, nn.Dropout | nn.Dropout2d):  # the identity, in inference
            values[step.name] = values[step.inputs[0]]
            continue
        values[step.name] = "logits" if step is steps[-1] else f"{step.name}.out"
        op, attributes = OPS[type(step.layer)]
        held = {f"{step.name}.{p}": t for p in PARAMETERS if (t := getattr(step.layer, p, None)) is not None}
        inputs = [*(values[source] for source in step.inputs), *held]
        nodes.append(helper.make_node(op, inputs, [values[step.name]], step.name, **attributes(step.layer)))
        parameters += [numpy_helper.from_array(t.detach().numpy(), key) for key, t in held.items()]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", *image])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", n_classes])],
        parameters,
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8, producer_name="jettison/benchmarks/reproduce")
    onnx.checker.check_model(model, full_check=True)
    return model


def shifted_and_turned(n: int, seed: int) -> Images:
    """Images of SIZE."""
    return triangles_squares(n, SIZE, seed)


def train(
    net: Network, seed: int, epochs: int, draw: Callable[[int, int], Images] = shifted_and_turned, rate: float = RATE
) -> None:
    """Train `net` in place with Adam, the rate falling to zero along half a cosine, batch by batch.

    draw  (number of images, seed) -> images and labels
    """
    optimiser = torch.optim.Adam(net.parameters(), lr=rate)
    steps = epochs * -(-EPOCH_IMAGES // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda k: 0.5 * (1 + math.cos(math.pi * k / steps)))
    for epoch in range(epochs):
        started = time.perf_counter()
        x, y = map(torch.from_numpy, draw(EPOCH_IMAGES, 1000 * (seed + 1) + epoch))
        net.train()
        losses = []
        for batch_x, batch_y in zip(x.split(BATCH), y.split(BATCH), strict=True):
            loss = F.cross_entropy(net(batch_x), batch_y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch}  loss {np.mean(losses):.4f}  {time.perf_counter() - started:.0f} s", flush=True)


def accuracy(path: Path, net: nn.Module) -> float:
    """Share of TEST_IMAGES that the file classifies correctly in onnxruntime; raises if its logits are not `net`'s."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    x, y = triangles_squares(TEST_IMAGES, SIZE, TEST_SEED)
    logits = np.concatenate([session.run(None, {"image": part})[0] for part in np.array_split(x, 40)])
    with torch.no_grad():
        wanted = net.eval()(torch.from_numpy(x[:500])).numpy()
    # Float32 sums in another order, through seven layers: 1e-5 of the largest logit.
    np.testing.assert_allclose(logits[:500], wanted, atol=1e-5 * np.abs(wanted).max(), rtol=0)
    return float((logits.argmax(1) == y).mean())


def main() -> None:
    """Train and write the file, then say how good it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=triangles_squares_path())
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--dropout", type=float, default=DROPOUT, help="share of channels zeroed in training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="the result depends on it in the last bits")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(chosen.seed)
    net = network(chosen.dropout)
    train(net, chosen.seed, chosen.epochs)
    onnx.save(to_onnx("triangles_squares", net.eval().steps, (1, SIZE, SIZE), len(CLASSES)), chosen.out)
    print(f"{chosen.out}  {chosen.out.stat().st_size} bytes  trained with seed {chosen.seed}")
    print(f"accuracy {accuracy(chosen.out, net):.4f} on {TEST_IMAGES} images of seed {TEST_SEED}")


if __name__ == "__main__":
    main()

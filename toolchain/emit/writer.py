"""The words in which an op's `lite` rule writes TFLite.

A rule takes views of its inputs, applies file ops to them, and gives its output a view:
`w.give(n.outputs[0], w.op("LOGISTIC", w.input(n.inputs[0])))`. A view is a file tensor with the layout in which it
holds its ONNX value. What is true of the format and not of one ONNX op happens here: layouts, padding, fused
activations, folding into weights. The words stand in `views`, `moves`, `products`, `windows` and `folding`, each built
on the one before.
"""

from __future__ import annotations

from toolchain.emit.folding import Folding
from toolchain.ops.table import find


class Writer(Folding):
    """Walks a graph and collects file ops; after `write`, `operations` and `views` hold the result.

    batch    what a free batch becomes: files have static shapes
    layouts  layout of each graph input that is not as in ONNX
    is_micro a rule with a choice takes ops that TFLite Micro has
    """

    def write(self) -> None:
        """Emit every node; raises Unsupported for a node without a rule."""
        for node in self.graph:
            entry = find(node)
            self.stem = f"{node.outputs[0].name}"
            if entry is None or entry.lite is None:
                self.refuse(node, "has no TFLite rule", "Export to onnx only, or replace the op before")
            if any(v is not None and v.shape is None for v in (*node.inputs, *node.outputs[:1])):
                self.refuse(node, "has a shape that depends on the data", "Export with static shapes")
            entry.lite(self, node)

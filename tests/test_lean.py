from __future__ import annotations

import subprocess
import sys

import pytest

SEES = """
import sys
import toolchain.model
assert "sympy" not in sys.modules
import onnx_ir as ir
n = ir.Shape(["N", 3])[0]
assert "sympy" not in sys.modules
assert str(n + 1) == "N + 1" and str(ir.SymbolicDim("2*N + max(N, 3)") - 1) == "2*N + Max(3, N) - 1"
import sympy
assert isinstance(n._expr, sympy.Expr)
"""
REFUSES = """
import sys
from toolchain import lean
def refuse(self, name): raise TypeError(name)
lean.StandIn.__getattr__ = refuse
import onnx_ir as ir
assert "sympy" in sys.modules and str(ir.Shape(["N"])[0] + 1) == "N + 1"
"""
EARLIER = """
import sympy
import toolchain.model, onnx_ir as ir
assert str(ir.Shape(["N"])[0] + 1) == "N + 1"
"""


@pytest.mark.parametrize("program", [SEES, REFUSES, EARLIER], ids=["stand-in", "stand-in refused", "sympy first"])
def test_onnx_ir_works_with_sympy_fetched_only_when_it_is_needed(program: str) -> None:
    subprocess.run([sys.executable, "-c", program], check=True)

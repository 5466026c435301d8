"""jettison: trained networks made small, fast and explainable enough to fly."""

from toolchain.lean import install as _import_onnx_ir_without_sympy

__version__ = "0.1.0"
_import_onnx_ir_without_sympy()

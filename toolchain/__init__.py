"""jettison: trained networks made small, fast and explainable enough to fly."""

import os

from toolchain.lean import install as _import_onnx_ir_without_sympy

__version__ = "0.1.0"
_import_onnx_ir_without_sympy()

# onnxruntime ≥ 1.29 reports names and hashes of models to its maker unless told not to, before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

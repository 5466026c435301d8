"""Other formats than ONNX, each file checked against onnxruntime. Runtimes and schemas are imported only when used."""

from toolchain.emit.quantise import QUANTISED
from toolchain.emit.run import EmissionCheck, check, lite_outputs, write_and_check_tflite
from toolchain.emit.run import check as check_onnx
from toolchain.emit.tflite import LiteModel, to_tflite

__all__ = [
    "QUANTISED",
    "EmissionCheck",
    "LiteModel",
    "check",
    "check_onnx",
    "lite_outputs",
    "to_tflite",
    "write_and_check_tflite",
]

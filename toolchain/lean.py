"""onnx_ir without sympy: a quarter of a second and 30 MB of every command.

onnx_ir 1.1 imports sympy for arithmetic on symbolic dimensions, which nothing here does. While onnx_ir is imported, a
stand-in takes sympy's place, which fetches the real one if it is ever needed. Nobody else sees it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, cast


class StandIn(ModuleType):
    """Hands out functions that call sympy's own, for onnx_ir to keep; once that is imported, sympy's own."""

    is_imported = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        real: Callable[[], Any] = lambda: getattr(importlib.import_module("sympy"), name)
        return real() if self.is_imported else lambda *arguments: real()(*arguments)


class WithoutSympy:
    """Finder and loader: finds onnx_ir where it is, once, and loads it while the stand-in is in place.

    It inherits nothing: importlib.abc alone takes 7 ms to import.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """onnx_ir's own specification with this loader around its own."""
        if fullname != "onnx_ir":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None and "sympy" not in sys.modules:
            self.own, spec.loader = spec.loader, cast(Any, self)
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """An ordinary module."""
        return self.own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run onnx_ir; if it wants more of sympy than to hold its functions, run it again with the real one."""
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self.own
        sys.modules["sympy"] = stand_in = StandIn("sympy")
        try:
            self.own.exec_module(module)
            stand_in.is_imported = True
            return
        except Exception:
            for name in [n for n in sys.modules if n.startswith("onnx_ir.")]:
                del sys.modules[name]
        finally:
            del sys.modules["sympy"]
        self.own.exec_module(module)


def install() -> None:
    """From now on, onnx_ir is imported without sympy."""
    if "onnx_ir" not in sys.modules:
        sys.meta_path.insert(0, WithoutSympy())

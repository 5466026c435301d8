"""Retraining in torch: the only package that may import it, and it does so when a function is first asked for.

A Recipe is plain numbers; with torch, `retrain` trains by it, `rounds` prunes weight by weight, `to_torch` and
`from_torch` serve loops of one's own.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from toolchain.errors import UsageError
from toolchain.retrain.recipe import Epoch, History, Recipe

if TYPE_CHECKING:
    from toolchain.retrain.magnitude import rounds
    from toolchain.retrain.network import from_torch, to_torch
    from toolchain.retrain.training import retrain

__all__ = ["Epoch", "History", "Recipe", "from_torch", "retrain", "rounds", "to_torch"]

IN_TORCH = {"from_torch": "network", "retrain": "training", "rounds": "magnitude", "to_torch": "network"}


def __getattr__(name: str) -> Any:
    """What needs torch; raises UsageError where that is not installed."""
    if name not in IN_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{IN_TORCH[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise UsageError("torch is not installed", way_out="Run pip install 'jettison[retrain]'") from error

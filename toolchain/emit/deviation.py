"""How far the tensors of a quantised file are from those of the float file, and what its ranges cut off."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tensors = Mapping[str, NDArray[Any]]
Pair = tuple[Tensors, Tensors]
SAMPLES = 64  # held-out samples that the tensors are compared on


def range_of(scale: Any, zero: Any) -> tuple[float, float]:
    """Smallest and largest number that an int8 tensor can hold, half a step beyond included."""
    return float(scale * (-128.5 - zero)), float(scale * (127.5 - zero))


def deviations(
    pairs: Iterable[Pair], limits: Mapping[str, tuple[float, float]], computed: Iterable[str]
) -> dict[str, list[dict[str, Any]]]:
    """layers: ‖y − x‖ / ‖x‖ of each computed tensor; saturated: share of x beyond its limits; both the largest first.

    pairs   (exact, near) tensors by name, batch after batch; what one of both lacks is left out
    """
    sums: dict[str, NDArray[np.float64]] = {}
    for exact, near in pairs:
        for name in (n for n in exact if n in near):
            x, y, (low, high) = exact[name].astype(np.float64), near[name], limits[name]
            if x.shape == y.shape and exact[name].dtype.kind == "f":
                found = [np.square(y - x).sum(), np.square(x).sum(), np.sum((x < low) | (x > high)), x.size]
                sums[name] = sums.get(name, np.zeros(4)) + found
    made = set(computed)
    errors = {n: float(np.sqrt(s[0] / s[1])) if s[1] else 0.0 for n, s in sums.items() if n in made}
    rows = [{"tensor": n, "relative_error": e} for n, e in sorted(errors.items(), key=lambda i: -i[1])]
    clipped = sorted(((float(s[2] / s[3]), n) for n, s in sums.items() if s[2]), reverse=True)
    return {"layers": rows, "saturated": [{"tensor": n, "share": share} for share, n in clipped]}

"""The colours of shares, and of what speaks for and against: the same in figures, heatmaps and pages."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# stops from 0 to 1, and from −1 over 0 to 1
RAMPS: dict[str, dict[str, list[str]]] = {
    "light": {
        "occurrence": ["#f4f6f8", "#7fb4e3", "#1d5f9e", "#0a1f38"],
        "selective": ["#005a8f", "#7db8dc", "#f4f6f8", "#f0a875", "#b84a00"],
    },
    "dark": {
        "occurrence": ["#1b242d", "#1d5f9e", "#62a9ec", "#f0f7fd"],
        "selective": ["#7cc8ff", "#1f6ea6", "#1b242d", "#b0571b", "#ffb07a"],
    },
}
SHARE, SIGNED = RAMPS["light"]["occurrence"], RAMPS["light"]["selective"]


def rgb(colour: str) -> NDArray[np.float64]:
    """'#b84a00' as red, green and blue in 0..1."""
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255


AGAINST, FOR = rgb(SIGNED[0]), rgb(SIGNED[-1])

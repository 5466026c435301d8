"""The same examples on every run; what every writing command writes; and this folder on the path of every test."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "laws",
    derandomize=True,  # the same networks on every run and every machine
    database=None,
    deadline=None,
    print_blob=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],  # networks are large examples
)
settings.load_profile("laws")


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what every writing command wrote, each once."""
    from writing import write_all

    return write_all(tmp_path_factory.mktemp("written"), PYTHONHASHSEED="1")

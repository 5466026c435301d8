"""The same examples on every run; and this folder on the path, so that every test can import compress.networks."""

from __future__ import annotations

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

"""Seeds for every test, and this folder on the path: `import building` works from all of them."""

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

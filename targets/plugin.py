"""A pytest fixture that lets pytest-benchmark record a target's own latencies, wherever they were taken.

    def test_rover(on_target):
        on_target("rover.onnx")

    pytest --on-target ssh://obc --benchmark-autosave
    pytest --on-target ssh://obc --benchmark-compare --benchmark-compare-fail=median:10%

pytest-benchmark times with a clock that is handed in. Ours stands still but for the samples that the agent took on the
target: each round advances it by one. So they stand in its tables and its JSON, seconds as everywhere; what is counted
has one second for 10⁹ instructions. The group is the target with its grade, for grades are never compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # every run of pytest loads this module
    from targets.measure import Measurement


class RemoteClock:
    """A clock that stands still until a sample is played: then it has advanced by it."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> float:
        """Seconds."""
        return self.now_ns / 1e9

    def play(self, samples_ns: Sequence[int]) -> Callable[[], None]:
        """A function that takes the time of the next sample on each call; it begins at 0, where floats are finest."""
        left = iter(samples_ns)

        def next_sample() -> None:
            self.now_ns += next(left)

        return next_sample


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where models are measured, for a whole run."""
    group = parser.getgroup("jettison")
    group.addoption("--on-target", default="local", metavar="TARGET", help="local, ssh://user@host or a virtual board")


@pytest.fixture
def on_target(request: pytest.FixtureRequest) -> Callable[..., Measurement]:
    """Measure a model on the target of --on-target; its samples are this test's benchmark.

    on_target(model, runtime=None, runs=None, warmup=None, threads=1, inputs=None) -> Measurement
    Skips where pytest-benchmark is not installed; fails, with the reason, where the target does not measure.
    """
    if not request.config.pluginmanager.hasplugin("benchmark"):
        pytest.skip("needs pytest-benchmark: pip install pytest-benchmark")
    clock = RemoteClock()
    asked = request.node.get_closest_marker("benchmark")
    # its own marks stay; the closest one is the one that is read
    request.node.add_marker(pytest.mark.benchmark(**{**(asked.kwargs if asked else {}), "timer": clock}), append=False)
    benchmark = request.getfixturevalue("benchmark")
    target = str(request.config.getoption("--on-target"))

    def record(model: Path | str, runtime: str | None = None, **sampling: Any) -> Measurement:
        from targets.measure import RunnerError, runtime_for
        from targets.runners import Asked, measure_on

        path = Path(model)
        try:
            (found,) = measure_on(target, [(path, runtime or runtime_for(path))], Asked(**sampling))
        except (RunnerError, ValueError) as error:
            pytest.fail(str(error), pytrace=False)
        benchmark.group = f"{benchmark.group + ', ' if benchmark.group else ''}{target}, {found.grade}"
        benchmark.extra_info.update(told(found))
        benchmark.pedantic(clock.play(found.samples_ns), rounds=len(found.samples_ns))
        return found

    return record


def told(found: Measurement) -> dict[str, Any]:
    """A row without what pytest-benchmark has itself: samples, their spread, and each round's."""
    from targets.measure import as_row

    return {key: value for key, value in as_row(found).items() if key not in ("ns", "round_p50_ns", "ops")}

"""A pytest fixture that holds files to budgets, as jettison check does.

    def test_rover_fits(size_budget):
        size_budget("out/model.onnx", flash="16 MiB", ram="8 MiB", params=4_000_000)

    def test_all_budgets(size_budget):
        size_budget()  # those of jettison.toml

Every run of pytest loads this module, so what it needs is imported when it is called.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from toolchain.config import ConfigFile
    from toolchain.gate.verdicts import Checked


@pytest.fixture
def size_budget(request: pytest.FixtureRequest) -> Callable[..., Checked]:
    """Fail the test where a file is beyond its limits.

    size_budget(model, **limits) -> Checked    limits are keys of [[budget]]; model is relative to the working directory
    size_budget(config=None) -> Checked        those of a configuration, by default of the one here
    """

    def hold(model: Path | str | None = None, *, config: Path | str | None = None, **budget: Any) -> Checked:
        from toolchain.errors import JettisonError
        from toolchain.gate.checking import check
        from toolchain.gate.formats import ways
        from toolchain.gate.limits import limits
        from toolchain.gate.verdicts import message

        try:
            file = configuration(model, config, budget, request.path)
            checked = check(file, limits(file))
        except JettisonError as error:
            pytest.fail(str(error), pytrace=False)
        if checked.failed:
            pytest.fail("\n".join([*map(message, checked.failed), *ways(checked)]), pytrace=False)
        return checked

    return hold


def configuration(
    model: Path | str | None, config: Path | str | None, budget: dict[str, Any], test: Path
) -> ConfigFile:
    """What a call asks for; raises UsageError."""
    from toolchain.config import NAME, read_config, typed
    from toolchain.errors import UsageError

    if model is not None:
        return typed({"budget": [{"model": str(Path(model).absolute()), **budget}]}, test)
    found = read_config(None if config is None else Path(config))
    if found is None:
        raise UsageError(f"there is no {NAME} here", way_out="Give a model with its limits, or config=…")
    return found

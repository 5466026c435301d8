"""Commands. Each imports what it needs when it runs: `--help` loads no numerical library."""

from toolchain.cli import (
    checking,
    explaining,
    job,
    measuring,
    proving,
    pruning,
    reading,
    stages,
    sweeping,
    targeting,
    training,
    tuning,
)
from toolchain.cli.app import cli, main, name_variables

__all__ = [
    "checking", "cli", "explaining", "job", "main", "measuring", "proving", "pruning", "reading", "stages", "sweeping",
    "targeting", "training", "tuning",
]  # fmt: skip

name_variables(cli)

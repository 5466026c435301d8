"""The main job: rank, plan, prune, prove, recover, emit, measure, report; each a function from values to a value."""

from toolchain.pipeline.compressing import compress
from toolchain.pipeline.cutting import ranked
from toolchain.pipeline.delivery import emission
from toolchain.pipeline.facts import describe_ranks
from toolchain.pipeline.job import FORMATS, Job
from toolchain.pipeline.quantised import asked_of, quantised

__all__ = ["FORMATS", "Job", "asked_of", "compress", "describe_ranks", "emission", "quantised", "ranked"]

"""How long a model takes on a board that nobody has on the desk: an interval, never a point, grade "estimated".

    t = Σ over ops max(instructions · CPI / f, bytes / bandwidth)

Instructions are counts of kernels' own runs (`targets.kernels`); bytes are what must come from main memory. The low end
takes the least of each (weights in cache if all fit, all of the bandwidth), the high end the most (every value of every
op comes from memory, at a quarter of the bandwidth). One core, one thread.

A model measured on the board fits CPI: twice, for the fewest and for the most instructions, so that what is not known
of the kernels stays in the interval and what is common to both models cancels. What remains is SPREAD: leaving out
every board and every model in turn, nine in ten MLPerf Tiny rows lie within it (`python -m benchmarks.estimates`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from targets.board import Board, BoardError
from targets.kernels import KERNELS, Interval, Kernels, Kind

SPREAD = 1.5  # of a calibrated estimate, either side
SUSTAINED = 0.25  # of the peak bandwidth that one core gets at worst: STREAM on a Raspberry Pi 4 gets 0.43

# What to do instead of estimating, by the board's runner.
MEASURE = {
    "local": "Measure: jettison bench --target local",
    "ssh": "Measure: jettison bench --target ssh://user@host",
    "virtual": "Count: jettison bench --target qemu-a53",
    "none": "Copy its descriptor to a .toml of your own and add it there",
}


@dataclass(frozen=True)
class Work:
    """One op's share of an inference, for one sample: counts of products and of values read and written."""

    name: str
    kind: Kind
    macs: int
    inputs: int
    outputs: int
    weights: int = 0


@dataclass(frozen=True)
class Size:
    """What a model keeps: values of all its weights, and values in the activation arena at its fullest."""

    weights: int
    arena: int


@dataclass(frozen=True)
class Fit:
    """Whether something fits; the margin is what is left, negative if it does not."""

    needed_bytes: int
    available_bytes: int

    @property
    def margin_bytes(self) -> int:
        """What is left of the memory."""
        return self.available_bytes - self.needed_bytes

    @property
    def fits(self) -> bool:
        """Whether there is room."""
        return self.margin_bytes >= 0


@dataclass(frozen=True)
class Calibration:
    """CPI as one measured run gives it, if the kernels take their fewest or their most instructions.

    by  the model and the time that it was fitted to
    """

    cpi_of_fewest: float
    cpi_of_most: float
    by: str


@dataclass(frozen=True)
class Estimate:
    """What a model should take on a board.

    bound  what the time goes to at both ends of the interval, or "either" where they differ; None: bandwidth unknown
    ram    weights and arena, or the arena alone where weights stay in flash; without the runtime and the application
    """

    board: str
    kernels: str
    low_ns: float
    high_ns: float
    instructions: Interval
    memory_bytes: Interval
    cpi: Interval
    bound: Literal["compute", "memory", "either"] | None
    ram: Fit | None
    flash: Fit | None
    calibrated_by: str | None
    grade: Literal["estimated"] = "estimated"


@dataclass(frozen=True)
class Load:
    """One op's cycles before CPI, and its bytes from main memory."""

    instructions: float
    bytes: float


def estimate(
    works: Sequence[Work], size: Size, board: Board, kernels: Kernels, calibration: Calibration | None = None
) -> Estimate:
    """The interval for a model; BoardError names the figure of the board that is missing."""
    clock, peak = known_clock(board), peak_bandwidth(board)
    fewest, most = loads(works, size, board, kernels)
    if calibration is not None:
        ends = ((fewest, calibration.cpi_of_fewest, peak), (same_bytes(most, fewest), calibration.cpi_of_most, peak))
    elif board.cpi is not None:
        ends = ((fewest, board.cpi.low, peak), (most, board.cpi.high, peak and SUSTAINED * peak))
    else:
        raise BoardError(f"{board.name} has no cpi. Measure one model there and give the row with --calibrate")
    times = [seconds(ops, cpi, clock, bandwidth) for ops, cpi, bandwidth in ends]
    spread = SPREAD if calibration else 1.0
    cpis = [cpi for _, cpi, _ in ends]
    return Estimate(
        board.name,
        kernels.name,
        min(times) / spread * 1e9,
        max(times) * spread * 1e9,
        (sum(l.instructions for l in fewest), sum(l.instructions for l in most)),
        (sum(l.bytes for l in fewest), sum(l.bytes for l in ends[1][0])),
        (min(cpis), max(cpis)),
        bound(ends, clock),
        room(size.arena + (0 if board.in_place else size.weights), kernels, board.ram_bytes),
        room(size.weights, kernels, board.flash_bytes),
        calibration and calibration.by,
    )


def calibrated(
    works: Sequence[Work], size: Size, board: Board, kernels: Kernels, measured_ns: float, by: str
) -> Calibration:
    """The CPI at which the model takes what was measured; BoardError if its bytes alone would take longer."""
    clock, peak = known_clock(board), peak_bandwidth(board)
    fewest, most = loads(works, size, board, kernels)
    floor = seconds(fewest, 0.0, clock, peak)
    if measured_ns * 1e-9 <= floor:
        raise BoardError(
            f"{by}: {measured_ns / 1e6:g} ms is less than the memory of {board.name} takes for it, "
            f"{floor * 1e3:.3g} ms. Was it measured there? Else correct bandwidth_bytes_per_s"
        )
    cpi_of_fewest, cpi_of_most = (
        root(lambda cpi, ops=ops: seconds(ops, cpi, clock, peak), measured_ns * 1e-9)
        for ops in (fewest, same_bytes(most, fewest))
    )
    return Calibration(cpi_of_fewest, cpi_of_most, by)


def kernels_of(board: Board, name: str | None = None) -> Kernels:
    """The kernels of this name, else the board's first; BoardError if there are none."""
    if name is None and not board.kernels:
        raise BoardError(f"{board.name} names no kernels to estimate with. {MEASURE[board.runner]}")
    chosen = name or board.kernels[0]
    if chosen not in KERNELS:
        raise BoardError(f"there are no kernels '{chosen}'. There are {', '.join(KERNELS)}")
    return KERNELS[chosen]


# ---- the pieces -----------------------------------------------------------------------------------------------------


def known_clock(board: Board) -> int:
    """Hertz of the board; BoardError where its descriptor has none."""
    if board.clock_hz is None:
        raise BoardError(f"{board.name} has no clock_hz to estimate with. {MEASURE[board.runner]}")
    return board.clock_hz.value


def peak_bandwidth(board: Board) -> int | None:
    """Bytes per second of the main memory at its best; None where that is not known."""
    return board.bandwidth_bytes_per_s.value if board.bandwidth_bytes_per_s else None


def instructions(work: Work, kernels: Kernels) -> Interval:
    """Fewest and most instructions of one op; an activation is free if the op before it does it."""
    if work.kind == "view":
        return 0.0, 0.0
    low, high = kernels.per_mac.get(work.kind, (0.0, 0.0))
    values = work.outputs if work.macs else max(work.inputs, work.outputs)
    least, most = (element * values for element in kernels.per_element)
    return low * work.macs + (0.0 if work.kind == "activation" else least), high * work.macs + most


def loads(works: Sequence[Work], size: Size, board: Board, kernels: Kernels) -> tuple[list[Load], list[Load]]:
    """What each op takes at least and at most."""
    cache, bytes_of = board.cache_bytes(), kernels.value_bytes
    fits = cache is not None and (size.weights + size.arena) * bytes_of <= cache
    misses = cache is not None and size.weights * bytes_of > cache  # then weights come anew with every inference
    fewest, most = [], []
    for work in works:
        low, high = instructions(work, kernels)
        moved = 0 if work.kind == "view" else work.weights + work.inputs + work.outputs
        fewest.append(Load(low, work.weights * bytes_of if misses else 0))
        most.append(Load(high, 0 if fits else moved * bytes_of))
    return fewest, most


def same_bytes(ops: Sequence[Load], others: Sequence[Load]) -> list[Load]:
    """Instructions of one end with the bytes of the other."""
    return [Load(l.instructions, other.bytes) for l, other in zip(ops, others, strict=True)]


def seconds(ops: Sequence[Load], cpi: float, clock_hz: float, bandwidth: float | None) -> float:
    """Σ max(instructions · CPI / f, bytes / bandwidth); without a bandwidth the first alone."""
    return sum(max(l.instructions * cpi / clock_hz, l.bytes / bandwidth if bandwidth else 0.0) for l in ops)


def bound(ends: Sequence[tuple[Sequence[Load], float, float | None]], clock_hz: float) -> Literal[
    "compute", "memory", "either"
] | None:  # fmt: skip
    """What more of the time goes to, at each end (ops, CPI, bandwidth)."""
    if any(bandwidth is None for _, _, bandwidth in ends):
        return None
    computing = [
        sum(l.instructions for l in ops) * cpi / clock_hz >= sum(l.bytes for l in ops) / (bandwidth or 1)
        for ops, cpi, bandwidth in ends
    ]
    return "either" if len(set(computing)) > 1 else "compute" if computing[0] else "memory"


def room(values: int, kernels: Kernels, memory: object) -> Fit | None:
    """Whether so many values fit into a memory; None where its size is not known."""
    available = getattr(memory, "value", None)
    return None if available is None else Fit(values * kernels.value_bytes, available)


def root(rising: Callable[[float], float], wanted: float) -> float:
    """Where a function that never falls, from 0 on, first reaches a value above its start; to 1e-9 relative."""
    high = 1.0
    while rising(high) < wanted:
        high *= 2  # every op that computes at all gets longer for ever
    low = 0.0
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < wanted else (low, middle)
    return high

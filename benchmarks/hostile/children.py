"""Commands in children of one process that has imported the toolchain: no start-up to pay for, and nothing shared.

A child that takes too long is ended by its own timer, SIGALRM, which no code of its own can hold up; one that takes
too much memory meets RLIMIT_AS. Whatever it did, the parent lives and says how it went.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[2]
SECONDS = 10.0
BYTES = 4 << 30
KNOWN = (0, 1, 2, 3, 4, 5, 6, 130)  # the exit codes that are an answer
PREFIX = "jettison: "
TOLD = 4000  # characters of what was said that are kept


@dataclass(frozen=True)
class Outcome:
    """How a command went.

    code            exit status, None where a signal ended it
    signal          0, or what ended it; SIGALRM: it took too long
    left            files that it left though it failed
    peak_rss_bytes  of the child or of one of its own children
    """

    code: int | None
    signal: int
    stdout: str
    stderr: str
    seconds: float
    peak_rss_bytes: int
    left: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """done, refused, or one of the five that must not be: hang, crash, traceback, untold, left."""
        lines = self.stderr.strip().splitlines()
        if self.signal:
            return "hang" if self.signal == signal.SIGALRM else "crash"
        if self.code not in KNOWN or "Traceback (most recent call last)" in self.stderr:
            return "traceback"
        if any(not line.startswith(PREFIX) for line in lines):
            return "untold"
        if not self.code:
            return "done"
        if sum(line.startswith(f"{PREFIX}error: ") for line in lines) != 1:
            return "untold"
        return "left" if self.left else "refused"


class Runner:
    """Runs commands one after another; close it, or use it in a with statement."""

    def __init__(
        self,
        python: str = sys.executable,
        server: Sequence[str] = ("benchmarks.hostile.children",),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        single = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        env = {**os.environ, **single, "PYTHONPATH": str(ROOT), "CI": "1", "PYTHONWARNINGS": "ignore"}
        env |= environment or {}
        command = [python, "-m", *server]
        self.server = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )

    def run(
        self,
        words: Sequence[object],
        folder: Path,
        seconds: float = SECONDS,
        memory: int = BYTES,
        is_heard: bool = True,
    ) -> Outcome:
        """`jettison -q WORDS` in a folder: how it went, and which files are new there if it failed.

        is_heard  whether anybody reads its standard output; else the reader went away before the first word
        """
        assert self.server.stdin is not None and self.server.stdout is not None
        before = set(folder.rglob("*"))
        asked = {"words": [str(w) for w in words], "folder": str(folder), "seconds": seconds, "memory": memory}
        asked["is_heard"] = is_heard
        self.server.stdin.write(json.dumps(asked) + "\n")
        self.server.stdin.flush()
        answer: dict[str, Any] = json.loads(self.server.stdout.readline())
        left = tuple(sorted(str(p.relative_to(folder)) for p in set(folder.rglob("*")) - before))
        return Outcome(**answer | {"left": left if answer["code"] != 0 else ()})

    def close(self) -> None:
        """End the server."""
        self.server.communicate()

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


# ---- the server ----------------------------------------------------------------------------------------------------
def serve(main: Callable[[list[str]], object]) -> None:
    """Answer each line of standard input, a command as JSON, with its outcome."""
    for line in sys.stdin:
        print(json.dumps(asdict(ran(main, **json.loads(line)))), flush=True)


def jettison(words: list[str]) -> None:
    """What the command line runs."""
    from toolchain.cli import main

    sys.argv = ["jettison", "-q", *(os.fsdecode(w.encode()) for w in words)]  # as this locale would have read them
    main()


def preload() -> None:
    """What commands import when they run; nothing of it starts a thread."""
    import gc
    import importlib

    for name in ("onnxruntime", "rich.console", "rich.table", "onnx.reference", "onnx.version_converter", "msgspec"):
        importlib.import_module(name)
    for path in sorted((ROOT / "toolchain").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if "retrain" not in name and "child" not in name and not name.endswith(("__main__", "plots")):
            importlib.import_module(name.removesuffix(".__init__"))
    gc.freeze()  # or each child copies every page that its collector looks at


def ran(
    main: Callable[[list[str]], object],
    words: list[str],
    folder: str,
    seconds: float,
    memory: int,
    is_heard: bool = True,
) -> Outcome:
    """The outcome of one command."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        begun = time.monotonic()
        pid = os.fork()
        if not pid:
            heard_by = out.fileno() if is_heard else unread()
            child(lambda: main(words), os.fsdecode(folder.encode()), seconds, memory, heard_by, err.fileno())
        _, status, used = os.wait4(pid, 0)
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # what it started
        took = time.monotonic() - begun
        said = [text(stream) for stream in (out, err)]
    ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    code = None if ended else os.WEXITSTATUS(status)
    return Outcome(code, ended, said[0], said[1], round(took, 4), used.ru_maxrss * 1024)


def unread() -> int:
    """A pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def text(stream: Any) -> str:
    """The end of what was said."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(size - TOLD, 0))
    return stream.read().decode(errors="replace")


def child(main: Callable[[], object], folder: str, seconds: float, memory: int, out: int, err: int) -> None:
    """Become the command; never returns."""
    code = 70
    try:
        os.setsid()
        os.chdir(folder)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for target, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, out), (2, err)):
            os.dup2(source, target)
        main()
        code = 0
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else 0 if done.code is None else 70
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


if __name__ == "__main__":
    preload()
    serve(jettison)

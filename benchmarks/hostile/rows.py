"""Bad inputs, row by row: what a user types, the exit code, and what the one line on stderr says.

    python -m benchmarks.hostile.rows

A row is right if all of its cases are: that exit code, one line for a person and no traceback, nothing left behind.
Rows that need a board, a signal or gigabytes are held by the tests that ELSEWHERE names.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import helper, numpy_helper

from benchmarks.hostile.children import Outcome, Runner
from benchmarks.hostile.files import write_files, zipped
from benchmarks.hostile.seeds import MAIN, parsed, write_seeds

PRUNE = "prune {} --budget units<=50% --dry-run"
RANK = f"rank {MAIN} --criterion activation --samples 4 -o out.npz --data {{}}"
CUT = f"prune {MAIN} --dry-run --budget "
COMPRESS = f"compress {MAIN} --data {{}} --criterion activation --budget units<=50% --runs 0 --to onnx -o made"
SECONDS = 60.0  # the chain of 20,000 nodes on a busy machine


@dataclass(frozen=True)
class Case:
    """One command: {} in it stands for the file; any of the codes is right, and all of the parts are said.

    is_told   the parts are said even if the command succeeds: a warning
    is_heard  somebody reads its standard output
    is_ascii  its locale has no other characters
    """

    command: str
    file: str
    codes: tuple[int, ...]
    says: tuple[str, ...] = ()
    is_told: bool = False
    is_heard: bool = True
    is_ascii: bool = False

    @property
    def words(self) -> list[str]:
        return [w.replace("{}", self.file) for w in self.command.split()]

    def run(self, folder: Path, runners: Mapping[bool, Runner]) -> str:
        """What is wrong with it in a folder, or ""; a runner without and one with an ASCII locale."""
        return self.wrong(runners[self.is_ascii].run(self.words, folder, seconds=SECONDS, is_heard=self.is_heard))

    def wrong(self, found: Outcome) -> str:
        """What is wrong with an outcome, or ""."""
        if found.kind not in ("done", "refused"):
            return f"{found.kind}: {found.stderr[-300:]}"
        if found.code not in self.codes:
            return f"exit {found.code}: {found.stderr[-300:]}"
        lacking = [s for s in self.says if (found.code or self.is_told) and s not in found.stderr]
        return f"does not say {lacking}: {found.stderr[-300:]}" if lacking else ""


def models(says: dict[str, str], *codes: int, command: str = PRUNE) -> tuple[Case, ...]:
    """A case for each hostile model file."""
    return tuple(Case(command, f"models/{name}.onnx", codes, (told,)) for name, told in says.items())


def data(says: dict[str, str], code: int = 3) -> tuple[Case, ...]:
    """A case for each file of samples."""
    return tuple(Case(RANK, name, (code,), (told,)) for name, told in says.items())


def typed(says: dict[str, str], *codes: int) -> tuple[Case, ...]:
    """A case for each command that names all of its files itself."""
    return tuple(Case(command, "", codes, (told,)) for command, told in says.items())


def every(*names: str, codes: tuple[int, ...] = (0,)) -> tuple[Case, ...]:
    """Sound models: they are pruned, and equal themselves."""
    commands = (PRUNE, "inspect {}", "verify {} {}", "export {} --to onnx -o made")
    return tuple(Case(c, f"models/{n}.onnx", codes) for n in names for c in commands)


PATHS = ("two words.onnx", "\u043c\u0435\u0440\u0430 \u00b5\u2014\u6e2c.onnx", "-dash.onnx")
TALKING = (  # commands that print
    "--help", "ops", "doctor", "targets list", "targets show stm32h7", f"inspect {MAIN}", f"inspect {MAIN} --memory",
    f"groups {MAIN} --format json", f"{CUT}units<=50%", f"prune {MAIN} --budget units<=50% -o made.onnx",
    f"verify {MAIN} {MAIN}", "check --config budgets.toml", f"init {MAIN} -o made.toml",
    f"gradient {MAIN} --at a -o made.onnx", f"targets estimate {MAIN} --target stm32h7",
    f"rank {MAIN} --data data.npz --criterion l1 -o made.npz", f"export {MAIN} --to onnx -o made",
    f"bench {MAIN} --runs 1 --warmup 0",
    f"compress {MAIN} --criterion magnitude --budget units<=50% --runs 0 --to onnx -o made",
)  # fmt: skip
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def named(path: str, is_ascii: bool) -> tuple[Case, ...]:
    """A sound model whose path is odd, and results beside it."""
    commands = ("inspect -- {}", "prune ./{} --budget units<=50% -o {}.cut --plan-out {}.json", "export ./{} -o {}.d")
    return tuple(
        Case(c, path, (0,), is_ascii=is_ascii)
        for c in (*commands, "verify ./{} ./{}", "bench ./{} --runs 1 --warmup 0")
    )


NONE = "not an ONNX model"
ROWS: dict[str, tuple[Case, ...]] = {
    "missing file, folder": models({"none": "no such file"}, 3)
    + typed({"inspect .": "is a folder", "inspect models/pipe": "not an ordinary file"}, 3),
    "no ONNX at all": models(
        {
            "empty": "the file is empty",
            "truncated": NONE,
            "noise": NONE,
            "text": "text",
            "lite": "TFLite",
            "zip": "zip",
            "pickle": "pickle",
        },
        3,
    ),
    "external data that leaves": models(
        {n: "refused" for n in ("above", "absolute", "symlink", "through", "hardlink", "device", "fifo")}, 3
    ),
    "external data that does not fit": models(
        {
            "gone": "is missing",
            "negative offset": "negative",
            "word offset": "no number",
            "far offset": "past the end of w.bin (9088 bytes)",
            "long": "past the end",
            "short": "declares 2,304 bytes but stores 8",
        },
        3,
    ),
    "sizes that disagree": models(
        {
            "small raw": "declares",
            "negative dims": "negative dimension",
            "overflow": "declares",
            "beyond memory": "declares 111.8 GiB",
        },
        3,
    ),
    "types": models({"unknown dtype": "unknown data type 99"}, 3)
    + models(
        {
            "string input": "is a string tensor",
            "sequence input": "is a sequence",
            "optional input": "is an optional",
            "sparse input": "is a sparse tensor",
            "sparse": "is sparse",
        },
        4,
    ),
    "NaN or infinity": models({"nan": "tensor 'W2': has 1 NaN (first at [0, 0, 0, 0])", "inf": "has 1 infinity"}, 3),
    "graphs": models(
        {"cycle": "cycle through", "dangling": "nothing makes", "twice": "made twice", "no output": "no output"}, 3
    )
    + every("unsorted"),
    "opset, IR version": models(
        {"opset 99": "opset 99 is newer than 26", "opset 5": "older than 7", "IR 99": "IR version 99"}, 4
    ),
    "custom, unknown, branches": every("branches")
    + models({"custom": "", "unknown op": ""}, 0)
    + models({"custom": "com.acme", "unknown op": "Relux"}, 4, command="verify {} {}")
    + models({"custom": "com.acme", "unknown op": "Relux"}, 4, command="export {} --to onnx -o made"),
    "open shapes": models({"open shape": "Give --shape x:1", "no rank": "Give --shape x:1"}, 2),
    "bombs": models(
        {
            "ConstantOfShape": "limit",
            "Expand": "limit",
            "Tile": "limit",
            "Resize": "longer than",
            "tiled activation": "longer than",
            "nested": "nested more than 16 deep",
        },
        3,
    )
    + models({"chain": "", "unsorted chain": ""}, 0, command="inspect {}")
    + models({"endless loop": "did not finish", "growing loop": ""}, 6, command="verify {} {}"),
    "names": every("names"),
    "archives": data(
        {
            "pickled.npz": "pickles are off",
            "bomb.npz": "expands to",
            "path.npz": "has no array",
            "lying.npz": "declares",
        }
    ),
    "samples": (
        *data(
            {
                "shape.npz": "the model wants (N, 1, 8, 8)",
                "nan.npz": "NaN",
                "labels.npz": "outside the model's 3 classes",
                "float labels.npz": "class numbers are needed",
                "none.npz": "no samples",
            }
        ),
        Case(RANK, "one class.npz", (3,), ("has samples of class 0 alone",)),
        Case(COMPRESS, "one class.npz", (3,), ("has samples of class 0 alone",)),
        Case(f"explain {MAIN} --data {{}} --figures sorted -o made --orders 1 --steps 2", "one class.npz", (0,)),
    ),
    "images": data({"broken": "y.png: cannot be read as an image", "endless": "", "huge": "cannot be read as an image"})
    + tuple(
        Case(f"{RANK} --skip-bad", name, (0,), (f"1 of 3 images left out: {name}/a/y.png",), is_told=True)
        for name in ("broken", "endless", "huge")
    )
    + (Case(f"{RANK} --skip-bad", "none", (3,), ("none of its 1 images can be read",)),),
    "one answer": (
        Case(
            COMPRESS.replace(MAIN, "always.onnx"),
            "data.npz",
            (0,),
            ("before the cut the network answers 'b' to all 12 samples: an accuracy of 33.33%",),
            is_told=True,
        ),
    ),
    "budgets": typed(
        {
            f"{CUT}params<=0": "leaves nothing",
            f"{CUT}params<=-3": "",
            f"{CUT}flash<=10MBs": "unknown unit 'MBs'",
            f"{CUT}weight<=10%": "unknown budget",
        },
        2,
    )
    + typed({f"{CUT}units<=100%": ""}, 0),
    "budget out of reach": typed({f"{CUT}params<=5": "the best is"}, 5),
    "ranks or plan of another": typed(
        {
            "prune old.onnx --ranks ranks.npz --budget units<=50% --dry-run": "were made for sha256",
            "prune old.onnx --plan plan.json --dry-run": "was made for sha256",
        },
        3,
    ),
    "half precision": models({"half": "is FLOAT16"}, 4, command="export {} --to onnx,tflite -o made")
    + every("half")
    + models({"bfloat": ""}, 0),
    "output": typed(
        {
            f"prune {MAIN} --budget units<=50% -o pruned.onnx": "exists",
            f"prune {MAIN} --budget units<=50% -o {MAIN} --force": "would replace",
        },
        2,
    )
    + typed({f"prune {MAIN} --budget units<=50% -o no/out.onnx": "no such folder"}, 3),
    "hosts": typed(
        {
            f"bench {MAIN} --target {host}": ""
            for host in ("ssh://-oProxyCommand=x", "ssh://a;b", "ssh://$(id)", "ssh://host:99999")
        },
        2,
    ),
    "config": typed(
        {
            f"check --config {name}.toml": told
            for name, told in (
                ("unknown", "unknown.toml:2: [prune] has no key 'ratoi'"),
                ("type", ""),
                ("syntax", ""),
                ("twice", "limited twice"),
                ("gone", "no such file"),
            )
        },
        2,
        3,
    ),
    "a reader that went away": tuple(Case(c, "", (0,), is_heard=False) for c in TALKING),
    "another locale": tuple(Case(c, "", (0,), is_ascii=True) for c in TALKING),
    "odd paths": tuple(c for path in PATHS for is_ascii in (False, True) for c in named(path, is_ascii)),
    "a .pt to prune": (Case(PRUNE, "net.pt", (3,), ("pickles run code",)),),
}

ELSEWHERE = {  # rows, or parts of them -> the file and the test that hold them
    "no permission": ("tests/test_validate.py", "test_a_file_that_may_not_be_read_is_told"),
    "model above 2 GiB": ("tests/test_onnx_file.py", "test_a_model_above_2_gib_is_written_and_read"),
    "names in every format": ("tests/test_cli.py", "test_names_inside_a_model_cannot_write_to_the_terminal"),
    "already quantised": ("tests/test_cli_quantise.py", "test_what_cannot_be_quantised_is_one_line_and_no_file"),
    "shared, tied and constant parameters": (
        "tests/test_model.py",
        "test_a_shared_bias_is_given_to_each_layer_and_a_shared_weight_stays",
    ),
    "literal reshapes, slices, shuffles": ("tests/compress/test_surgery.py", ""),
    "full disk": ("tests/test_cli_emission.py", "test_a_full_disk_is_told_and_leaves_no_partial_file"),
    "Ctrl-C": ("tests/test_cli.py", "test_an_interrupt_leaves_no_partial_file"),
    "host key, password, silence, no python": (
        "tests/targets/test_link.py",
        "test_an_unknown_host_key_is_for_the_user_to_accept",
    ),
    "a runtime that crashes or hangs": (
        "tests/targets/test_measure.py",
        "test_a_runtime_that_hangs_is_ended_with_everything_it_started",
    ),
}


def write_all(folder: Path) -> None:
    """Every file that the table names."""
    from PIL import Image

    write_seeds(folder)
    always = parsed(MAIN)
    always.graph.node[-1].output[0] = "scores"
    always.graph.node.append(helper.make_node("Add", ["scores", "certain"], ["y"]))
    always.graph.initializer.append(numpy_helper.from_array(np.array([0, 1e6, 0], np.float32), "certain"))
    (folder / "always.onnx").write_bytes(always.SerializeToString())
    write_files(folder)
    x, y = np.zeros((6, 1, 8, 8), np.float32), np.arange(6) % 3
    nan = x.copy()
    nan[0, 0, 0, 0] = np.nan
    arrays: dict[str, tuple[np.ndarray, np.ndarray]] = {
        "shape": (x[:, :, :4], y),
        "nan": (nan, y),
        "labels": (x, y + 7),
        "float labels": (x, y + 0.5),
        "none": (x[:0], y[:0]),
        "one class": (x, y * 0),
        "pickled": (x, np.array([object()] * 6)),
    }
    for name, (images, labels) in arrays.items():
        np.savez(folder / f"{name}.npz", x=images, y=labels, allow_pickle=True)
    (folder / "bomb.npz").write_bytes(
        zipped(**{f"{n}.npy": bytes(64) for n in "xyz"}).replace(*declared(64, 0xFFFF_FFF0))
    )
    (folder / "path.npz").write_bytes(zipped(**{"../x.npy": npy(x)}))
    (folder / "lying.npz").write_bytes(zipped(**{"x.npy": npy(x)[:-8]}))
    for name in ("broken", "endless", "huge"):
        for k in "ab":
            (folder / name / k).mkdir(parents=True)
            Image.new("L", (8, 8)).save(folder / name / k / "x.png")
    (folder / "none" / "a").mkdir(parents=True)
    (folder / "none" / "a" / "x.png").write_bytes(b"\x89PNG but no more")
    (folder / "broken" / "a" / "y.png").write_bytes(b"\x89PNG but no more")
    (folder / "endless" / "a" / "y.png").symlink_to("y.png")
    Image.new("1", (20_000, 20_000)).save(folder / "huge" / "a" / "y.png")
    for name in PATHS:
        shutil.copy(folder / MAIN, folder / name)
    (folder / "net.pt").write_bytes(zipped(**{"archive/data.pkl": b"x"}))
    budget = f'[[budget]]\nmodel = "{MAIN}"\n'
    texts = {"unknown": "[prune]\nratoi = 3\n", "type": "[prune]\nbudget = 3\n", "syntax": "[model\n"}
    texts["twice"] = f"{budget}params = 3\n{budget}params = 4\n"
    for name, text in texts.items():
        (folder / f"{name}.toml").write_text(text)


def npy(array: np.ndarray) -> bytes:
    """An .npy file."""
    import io

    with io.BytesIO() as buffer:
        np.save(buffer, array)
        return buffer.getvalue()


def declared(size: int, told: int) -> tuple[bytes, bytes]:
    """The size of a member as an archive has it, and another one."""
    return size.to_bytes(4, "little"), told.to_bytes(4, "little")


def judged(
    folder: Path, runners: Mapping[bool, Runner], rows: Mapping[str, Sequence[Case]] = ROWS
) -> dict[str, list[str]]:
    """Row -> what is wrong with its cases, "" for each that is right."""
    before = {p for p in folder.rglob("*")}
    found: dict[str, list[str]] = {}
    for row, cases in rows.items():
        for case in cases:
            told = case.run(folder, runners)
            found.setdefault(row, []).append(f"{' '.join(case.words)}: {told}" if told else "")
            for path in sorted(set(folder.rglob("*")) - before, reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as there, Runner() as runner, Runner(environment=ASCII) as other:
        write_all(Path(there))
        found = judged(Path(there), {False: runner, True: other})
    for row, told in found.items():
        print(f"{row:34} {sum(not t for t in told):3} of {len(told)} cases right")
        for text in filter(None, told):
            print(f"    {text}")
    for row, (file, test) in ELSEWHERE.items():
        print(f"{row:34} {file} {test}")
    right = sum(not any(told) for told in found.values())
    cases = [t for told in found.values() for t in told]
    print(
        f"{right} of {len(found)} rows · {sum(not t for t in cases)} of {len(cases)} cases · {len(ELSEWHERE)} elsewhere"
    )
    sys.exit(right < len(found))


if __name__ == "__main__":
    main()

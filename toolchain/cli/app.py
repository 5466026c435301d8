"""The command group and its entry point."""

from __future__ import annotations

import errno
import gc
import sys
import traceback
from pathlib import Path

import click

from toolchain import __version__
from toolchain.cli.configured import defaults
from toolchain.cli.streams import make_lasting
from toolchain.errors import JettisonError, printable

UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="jettison")
@click.option("-q", "--quiet", is_flag=True, help="No progress and no stage lines.")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Else jettison.toml, else pyproject.toml's tables.",
)
@click.option("--debug", is_flag=True, help="Show the traceback of an internal error.")
@click.pass_context
def cli(context: click.Context, quiet: bool, config: Path | None, debug: bool) -> None:
    """Make trained networks small, fast and explainable enough to fly: ONNX in, smaller ONNX and TFLite out."""
    context.obj |= {"quiet": quiet, "debug": debug, "config": config, "classes": ()}
    context.default_map = defaults(context)


def name_variables(command: click.Command, name: str = "JETTISON") -> None:
    """From now on each option is also read from a variable: --format of check from JETTISON_CHECK_FORMAT.

    click itself would name it after the function's parameter, which nobody sees.
    """
    for option in command.params:
        if isinstance(option, click.Option):
            longest = max(option.opts, key=len).lstrip("-")
            option.envvar = f"{name}_{longest}".upper().replace("-", "_")
    for word, inner in command.commands.items() if isinstance(command, click.Group) else ():
        name_variables(inner, f"{name}_{word}")


def main() -> None:
    """Entry point: one line for a user's mistake, its exit code, and a traceback only for our own bugs."""
    make_lasting()
    gc.set_threshold(100_000)  # start-up makes many objects and little garbage: looking for it took 7 % of a prune
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    try:
        cli.main(args=arguments, prog_name="jettison", standalone_mode=False, obj={"arguments": arguments})
        code = 0
    except click.exceptions.Exit as done:
        code = done.exit_code
    except (KeyboardInterrupt, click.Abort):
        code = complain("interrupted", 130)
    except JettisonError as error:
        code = complain(str(error), error.exit_code)
    except click.ClickException as error:
        code = complain(error.format_message().rstrip(".") + ". See jettison --help", 2)
    except MemoryError:
        code = complain("out of memory. Try a lower --max-memory or fewer samples", 3)
    except Exception as error:
        code = unexpected(error, debug)
    sys.exit(code)


def unexpected(error: Exception, debug: bool) -> int:
    """A disk that is full or read-only, whoever was writing, and a path that none has; all else is our bug."""
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return complain(f"{error.filename}: the path is too long", 3)
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        where = error.filename or "a temporary file or the output"
        return complain(f"cannot write {where}: {error.strerror}. Make room, or set TMPDIR to another disk", 3)
    if debug:
        traceback.print_exc()
    return complain(f"internal error: {type(error).__name__}: {error}. Run again with --debug and report it", 70)


def complain(text: str, code: int) -> int:
    """One line on stderr."""
    click.echo(f"jettison: error: {printable(text)}", err=True)
    return code

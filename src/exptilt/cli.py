"""The command line: its commands put together, and what a person is told when one of them fails."""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import typer

from exptilt import __version__
from exptilt.commands import model_commands, people_commands, run_commands
from exptilt.commands.typed_words import this_command
from exptilt.errors import ExptiltError, Stopped
from exptilt.processes.allocator import set_torch_defaults
from exptilt.processes.cores import settle_threads
from exptilt.usage import is_usage_error, read_as_meant, usage_line

app = typer.Typer(
    name="exptilt",
    help="Tilt a model toward what people prefer, and see how far it is from the best that could be reached.",
    no_args_is_help=False,  # see _root
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _part in (run_commands, model_commands, people_commands):
    app.registered_commands += _part.app.registered_commands


def main() -> None:
    """Run the command line; a user's mistake is one line and exit status 2, never a traceback."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "off")  # but while rows are tokenised, see data.encode
    set_torch_defaults()
    settle_threads()
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it tells everybody about kernels it did not find
    try:
        sys.exit(app(args=read_as_meant(sys.argv[1:]), standalone_mode=False))
    except Stopped as stop:
        print(stop)
    except ExptiltError as error:
        for line in () if error.told else str(error).splitlines():
            print(f"exptilt: {line}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        if is_usage_error(error):
            print(f"exptilt: {usage_line(error.format_message(), sys.argv[1:])}", file=sys.stderr)  # type: ignore[attr-defined]
            sys.exit(2)
        from exptilt.disk import is_refusal, reason

        if not is_refusal(error):  # a bug of ours keeps its traceback
            raise
        where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        print(f"exptilt: {where}{reason(error)}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as leaving:
        if leaving.code in _INTERRUPTED:
            print(f"exptilt: interrupted; to go on from what is done: {this_command()}", file=sys.stderr)
        raise


_INTERRUPTED = (130, 143)
"""Exit statuses after SIGINT and SIGTERM."""


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        print(f"exptilt {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


if __name__ == "__main__":
    main()

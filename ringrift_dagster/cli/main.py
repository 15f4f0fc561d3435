"""Entry point of `ringrift-data`: finds commands, turns every expected error into one line and an exit code.

Commands are imported when they are used, so that `--help` and completion answer at once.
"""

from __future__ import annotations

import importlib
import os
import sqlite3
import sys
from collections.abc import Sequence

import click

from ringrift_dagster.cli.output import Exit, complain
from ringrift_dagster.home import Home

COMMANDS = {
    "selfplay": "Play games with our own AIs.",
    "verify": "Judge databases by the canonical rules.",
    "export": "Write training sets.",
    "inspect": "Look into a database, a training set or a model.",
    "registry": "RingRift's evidence beside our verdicts; the state of every config.",
    "rules": "What the canonical rules allow: counts of legal moves by depth.",
    "ai": "RingRift's AI types, their capabilities, and contradictions in its ladders.",
    "models": "Trained models: candidates, their evidence, decisions on them, and what is current.",
    "where": "Every copy of an item, and who could give it best.",
    "manifest": "What exists, where, and whether it is good: refresh it, ask it.",
    "health": "Whether all is well, on one screen, and what to do where it is not.",
    "ready": "Whether a training job could begin on a host, and why not.",
    "freshness": "What every host would train on, and why it is stale.",
    "orphans": "What cannot be reached, and what would bring it back.",
    "queue": "What is to be moved: list it, ask for more, carry it out.",
    "replication": "Who must hold what, what is missing for it, what must stay and what may go.",
    "hosts": "The hosts file as the data plane understands it.",
    "events": "What hosts tell, what the coordinator tells them, and what nobody understood.",
    "node": "The agent that runs on every host.",
    "demo": "Run the whole data plane on games that a small cluster plays, in the Dagster UI.",
}
"""Each is the click command of its name in the module of its name beside this one."""


class LazyGroup(click.Group):
    """A group whose commands are modules, imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"ringrift_dagster.cli.{cmd_name}")
        return getattr(module, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="ringrift-dagster", prog_name="ringrift-data")
def cli() -> None:
    """RingRift's training data: what is canonical, what is exported, what is fresh.

    Exit status: 0 good, 1 bad news, 2 wrong usage or unreadable input. State is kept below
    $RINGRIFT_DATA_HOME.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its status."""
    _open_closed_streams()
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status. What is not expected still raises."""
    try:
        return cli.main(arguments, prog_name="ringrift-data", standalone_mode=False) or Exit.GOOD
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "ringrift-data"
        complain(f"{_line(error.format_message())} (see `{where} --help`)")
        return Exit.USAGE
    except click.ClickException as error:
        complain(_line(error.format_message()))
        return error.exit_code
    except OSError as error:
        complain(f"{error.filename or ''}: {error.strerror or error}".removeprefix(": "))
        return Exit.USAGE
    except sqlite3.Error as error:
        complain(f"{getattr(error, '__notes__', ['a database of ours'])[0]} cannot be used: {_line(str(error))}")
        return Exit.USAGE
    except RuntimeError:
        if _home_exists():
            raise
        complain(f"$RINGRIFT_DATA_HOME is {Home.named()!r}, and there is no such user: name another directory")
        return Exit.USAGE
    except (click.Abort, KeyboardInterrupt):
        complain("interrupted")
        return Exit.INTERRUPTED


def _open_closed_streams() -> None:
    """Have output that the caller has closed go nowhere, and its descriptor not become that of a file of ours."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # in the order of their descriptors
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, errors="backslashreplace")  # noqa: PTH123, SIM115 (open until the end)
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


def _home_exists() -> bool:
    """Whether $RINGRIFT_DATA_HOME names a directory, and not one of a user who is unknown."""
    try:
        Home.from_env()
    except RuntimeError:
        return False
    return True


def _line(message: str) -> str:
    return " ".join(message.split())


if __name__ == "__main__":
    main()

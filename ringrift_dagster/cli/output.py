"""How commands speak: results on stdout (tables, or JSON and nothing else), everything else on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Any

import click
import orjson
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

PIPE_WIDTH = 160
"""Columns of a table that no terminal bounds."""
MAX_NUMBER = (1 << 63) - 1
"""The largest that a database takes."""
MAX_ROWS = 1_000_000
"""The most that a command shows."""

Step = Callable[[str, int, int], None]
"""Told (what, done, total) as long work goes on."""

as_json = click.option("--json", "json_output", is_flag=True, help="Print JSON to stdout, and nothing else.")


class Exit(IntEnum):
    """Exit status of every command."""

    GOOD = 0
    BAD_NEWS = 1
    USAGE = 2
    INTERRUPTED = 130


class Unreadable(click.ClickException):
    """An input that cannot be read."""

    exit_code = Exit.USAGE


class BadNews(click.ClickException):
    """What was asked for cannot be had; nothing is wrong with the question."""

    exit_code = Exit.BAD_NEWS


def complain(message: str) -> None:
    """One line on stderr."""
    click.echo(f"ringrift-data: {message}", err=True)


def print_json(value: Any) -> None:
    """A value as JSON on stdout; paths become text."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS
    try:
        text = orjson.dumps(value, default=_text, option=options).decode()
    except TypeError:  # names of files need not be Unicode; the standard library writes such a name as an escape
        text = json.dumps(value, default=_text, indent=2) + "\n"
    sys.stdout.write(text)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str = "") -> None:
    """A table on stdout; numbers stand to the right. When there are no rows, the line `empty`, or nothing."""
    rows = [[_cell(value) for value in row] for row in rows]
    if not rows:
        if empty:
            click.echo(empty)
        return
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        numeric = all(row[index].replace(",", "").replace(".", "", 1).isdigit() or not row[index] for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
    console.print(table)
    console.print()


@contextmanager
def progress(unit: str) -> Iterator[Step]:
    """A progress bar on stderr while the block runs, if a person watches."""
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    tasks: dict[str, Any] = {}

    def step(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bars.add_task(escape(Path(what).name), total=total)
        bars.update(tasks[what], completed=done, total=total)

    with bars:
        yield step


def _text(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else str(value)

"""What the commands on the manifest share: opening the plane, and saying times, ages and sizes. No command of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ringrift_dagster.cli.output import BadNews, Exit, Unreadable, complain

if TYPE_CHECKING:
    from ringrift_dagster.manifest.plane import Plane

with_hosts_file = click.option(
    "--hosts-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Instead of $RINGRIFT_HOSTS_FILE, or distributed_hosts.yaml in the home.",
)
_UNITS = ((86_400.0, "d"), (3600.0, "h"), (60.0, "min"))


@contextmanager
def opened(hosts_file: Path | None) -> Iterator[Plane]:
    """The plane; what keeps it from opening is said in a line a problem."""
    from sqlalchemy.exc import SQLAlchemyError

    from ringrift_dagster.cluster.hosts import HostsFileError
    from ringrift_dagster.manifest.plane import open_plane
    from ringrift_dagster.manifest.store import StoreError

    try:
        with open_plane(hosts_file=hosts_file) as plane:
            yield plane
    except HostsFileError as error:
        for problem in error.problems[:-1]:
            complain(problem)
        raise Unreadable(error.problems[-1] if error.problems else str(error)) from error
    except StoreError as error:
        raise Unreadable(str(error)) from error
    except SQLAlchemyError as error:
        said = str(getattr(error, "orig", None) or error).strip().splitlines() or [type(error).__name__]
        raise Unreadable(f"the manifest does not answer: {said[0]}; try again") from error


def known_location(plane: Plane, name: str) -> str:
    """The name, if there is such a location."""
    from ringrift_dagster.manifest.locations import all_locations

    names = [place.name for place in all_locations(plane.store)]
    if name not in names:
        raise click.UsageError(f"no location {name!r}; there are {', '.join(names)}")
    return name


def known_item(plane: Plane, text: str) -> str:
    """The hash of an item named by its hash, the beginning of it, or a file name or path. An unknown one is bad news."""
    from ringrift_dagster.manifest.queries import AmbiguousItem, UnknownItem, find_item

    try:
        return find_item(plane.store, text)
    except UnknownItem:
        raise BadNews(f"the manifest has no item {text!r}; `ringrift-data manifest refresh` looks again") from None
    except AmbiguousItem as error:
        raise click.UsageError(f"{error}; name one by the beginning of its hash") from error


def when(at: float | None) -> str:
    """A time for a person; one that no calendar has, as it is."""
    if at is None:
        return ""
    try:
        return datetime.fromtimestamp(at, UTC).isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")
    except (ValueError, OverflowError, OSError):
        return f"{at:g}"


def ago(at: float | None) -> str:
    """How long something is past, in its largest unit."""
    return "never" if at is None else span(time.time() - at)


def span(seconds: float | None) -> str:
    """A length of time in its largest unit."""
    if seconds is None:
        return ""
    for size, unit in _UNITS:
        if abs(seconds) >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{round(seconds)} s"


def outcome(bad: object) -> int:
    """The exit status of news that are bad if anything is in them."""
    return Exit.BAD_NEWS if bad else Exit.GOOD

"""Metadata an operator reads at a glance: tables, bars, times. No knowledge of any asset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg

from ringrift_dagster.datasets.freshness import recorded_time

MAX_ROWS = 50
BAR_WIDTH = 24


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> dg.MarkdownMetadataValue:
    """A Markdown table of at most `MAX_ROWS` rows that says how many it leaves out."""
    rows = list(rows)
    lines = [columns, ["---"] * len(columns), *rows[:MAX_ROWS]]
    text = "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)
    left_out = len(rows) - MAX_ROWS
    return dg.MetadataValue.md(text + (f"\n\n… and {left_out} more" if left_out > 0 else ""))


def mix(what: str, counts: Mapping[str, int]) -> dg.MarkdownMetadataValue:
    """Counts with their shares as bars, the largest first."""
    total = sum(counts.values()) or 1
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return table(
        [what, "count", "share", ""],
        ([name, f"{count:,}", f"{count / total:.1%}", _bar(count / total)] for name, count in ordered),
    )


def timestamp(text: str | None) -> dg.MetadataValue:
    """A recorded game time as Dagster shows times, or that there is none."""
    time = recorded_time(text)
    return dg.MetadataValue.text("none") if time is None else dg.MetadataValue.timestamp(time)


def moment(time: float | None) -> str:
    """A time in seconds since 1970 for a table: UTC, to the second; empty if there is none, and as it is if no calendar has it."""
    if time is None:
        return ""
    try:
        return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"{time:g}"


def location(path: Path) -> dict[str, dg.MetadataValue]:
    """Where the asset is, under the key the UI knows."""
    return {"dagster/uri": dg.MetadataValue.text(path.as_uri())}


def _bar(share: float) -> str:
    filled = round(share * BAR_WIDTH)
    return "█" * filled + "░" * (BAR_WIDTH - filled)


def _cell(value: object) -> str:
    return "" if value is None else str(value).replace("|", "\\|").replace("\n", " ")

"""One cycle: every source is asked at the same time, each within its own limit, and what changed is taken in as it arrives.

Every answer is a transaction of its own: a cycle that is killed has taken in some answers whole and the others not at all, and the
next one goes on from there. A source that hangs is left behind, never waited for.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from ringrift_dagster.manifest import liveness
from ringrift_dagster.manifest.changes import last_change
from ringrift_dagster.manifest.inventory import Cursor, Inventory, NoAnswer, Source
from ringrift_dagster.manifest.locations import all_locations
from ringrift_dagster.manifest.merge import Merged, merge
from ringrift_dagster.manifest.schema import state
from ringrift_dagster.manifest.store import Store

CYCLE_SECONDS = 30.0
ANSWER_SECONDS = 8.0
"""Time a source has for an answer, twice in a cycle."""
AGAIN_SECONDS = 2.0
"""Pause before the second question to a source that did not answer."""
GRACE_SECONDS = 1.0
_FIRST_ASKED: dict[tuple[str, str], int] = {}
"""By manifest and location: at which revision the first question was asked of those that had no answer yet."""
_WORTH_ASKING_AGAIN = frozenset({"refused", "timeout", "unreachable", "server_error"})


@dataclass(frozen=True)
class Outcome:
    """How it went with one location. `code` and `detail` say why there was no answer; both None if there was one."""

    location: str
    seconds: float
    code: str | None = None
    detail: str | None = None
    merged: Merged | None = None
    changed_liveness: bool = False

    @property
    def answered(self) -> bool:
        return self.code is None


@dataclass
class Refreshed:
    """One cycle. `changes` is the id of the last change before it: what it changed comes after."""

    started_at: float
    changes: int
    seconds: float = 0.0
    outcomes: list[Outcome] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    """Locations whose answers there was no time to take in: they are asked again in the next cycle."""

    @property
    def silent(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if not outcome.answered]


@dataclass(frozen=True)
class _Told:
    source: Source
    inventory: Inventory | None
    silence: NoAnswer | None
    before: int
    seconds: float


def refresh(
    store: Store,
    sources: Sequence[Source],
    *,
    clock: Callable[[], float] = time.time,
    answer_seconds: float = ANSWER_SECONDS,
    again_seconds: float = AGAIN_SECONDS,
    budget: float = float("inf"),
) -> Refreshed:
    """Ask every source what its location holds and take it in.

    The questions take two answers' time and the pause between them at most. Taking in takes as long as there is much that is new,
    as in a manifest's first cycle: after `budget` seconds no further answer is begun with.
    """
    result = Refreshed(clock(), last_change(store))
    began = time.monotonic()
    cursors = {
        place.name: Cursor(place.epoch, place.cursor) for place in all_locations(store) if place.epoch and place.cursor is not None
    }

    def take_in(asked: Sequence[Source]) -> None:
        for told in _ask_all(store, asked, cursors, answer_seconds):
            if time.monotonic() - began > budget:
                result.left.append(told.source.location)
            else:
                result.outcomes.append(_take_in(store, told, clock))

    take_in(sources)
    again = {outcome.location for outcome in result.silent if outcome.code in _WORTH_ASKING_AGAIN}
    if again:
        threading.Event().wait(again_seconds)
        result.outcomes = [outcome for outcome in result.outcomes if outcome.location not in again]
        take_in([source for source in sources if source.location in again])
    with store.writing() as writer:
        writer.connection.execute(sa.update(state).values(refreshed_at=clock()))
    result.outcomes.sort(key=lambda outcome: outcome.location)
    result.seconds = time.monotonic() - began
    return result


def _ask_all(store: Store, sources: Sequence[Source], cursors: dict[str, Cursor], seconds: float):
    """Answers as they come; for a source that has not answered at the end, that it has not."""
    answers: queue.SimpleQueue[_Told] = queue.SimpleQueue()
    waiting = {source.location: source for source in sources}
    started = time.monotonic()
    before = store.revision()
    for source in sources:
        threading.Thread(
            target=lambda source=source: answers.put(_ask(source, cursors.get(source.location), seconds, before)),
            name=f"refresh-{source.location}",
            daemon=True,  # one that hangs in a dead file system must not keep the process
        ).start()
    while waiting:
        left = started + seconds + GRACE_SECONDS - time.monotonic()
        try:
            told = answers.get(timeout=max(left, 0.001))
        except queue.Empty:
            break
        if waiting.pop(told.source.location, None) is not None:
            yield told
    for name, source in waiting.items():
        silence = NoAnswer(name, "timeout", f"no answer within {seconds:g} s")
        yield _Told(source, None, silence, before, time.monotonic() - started)


def _ask(source: Source, cursor: Cursor | None, seconds: float, before: int) -> _Told:
    started = time.monotonic()
    try:
        inventory, silence = source.read(cursor, seconds), None
        if inventory.location != source.location:
            silence = NoAnswer(source.location, "wrong_node", f"answered for {inventory.location}")
    except NoAnswer as error:
        inventory, silence = None, error
    except Exception as error:  # a fault in one source must not keep the others from being heard
        inventory, silence = None, NoAnswer(source.location, "bad_answer", f"{type(error).__name__}: {error}")
    return _Told(source, None if silence else inventory, silence, before, time.monotonic() - started)


def _take_in(store: Store, told: _Told, clock: Callable[[], float]) -> Outcome:
    name, seconds = told.source.location, told.seconds
    key = (str(store.engine.url), name)
    if told.inventory is None:
        _FIRST_ASKED.setdefault(key, told.before)
        silence = told.silence or NoAnswer(name, "bad_answer", "nothing")
        changed = liveness.unanswered(store, silence, at=clock())
        return Outcome(name, seconds, silence.code, silence.detail, changed_liveness=changed)
    first = _FIRST_ASKED.pop(key, 0)
    merged = merge(store, told.inventory, before=first if told.inventory.begun_earlier else told.before, at=clock())
    changed = liveness.answered(store, told.inventory, at=clock())
    return Outcome(name, seconds, merged=merged, changed_liveness=changed)

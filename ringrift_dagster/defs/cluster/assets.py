"""`host_events`: what hosts told and what followed; and whether anything was told that nobody understood."""

from collections import Counter
from collections.abc import Sequence

import dagster as dg

from ringrift_dagster.defs.policies import OWNERS
from ringrift_dagster.defs.presentation import moment, table
from ringrift_dagster.defs.resources import PlaneResource
from ringrift_dagster.events import inbox
from ringrift_dagster.events.inbox import Told
from ringrift_dagster.events.model import subjects
from ringrift_dagster.manifest.store import Store
from ringrift_dagster.transfer.reactions import Reaction

EVENTS = "host_events"
UNDERSTOOD = "every_event_understood"
LIMIT = 200

host_events = dg.AssetSpec(
    EVENTS,
    group_name="cluster",
    kinds={"sql"},
    owners=OWNERS,
    tags={"ringrift/layer": "cluster"},
    description=(
        "What hosts told: training starts, finished self-play, promoted models, hosts that come and go. Every batch that was "
        "reacted to is observed here, with what followed from each event: operations in the queue, runs, events in turn."
    ),
)


@dg.asset_check(asset=EVENTS, name=UNDERSTOOD)
def every_event_understood(plane: PlaneResource) -> dg.AssetCheckResult:
    """Whether every event that hosts told was understood. The sensors say so with every batch."""
    with plane.manifest() as store:
        verdict = understood(store)
    return dg.AssetCheckResult(
        passed=verdict.passed, severity=verdict.severity, description=verdict.description, metadata=dict(verdict.metadata)
    )


def understood(store: Store) -> dg.AssetCheckEvaluation:
    """The check as it stands: dead letters, why they are, and how to try them again."""
    count = inbox.dead_count(store)
    letters = inbox.dead(store, limit=LIMIT) if count else []
    rows = ([letter.number, moment(letter.at), letter.host, letter.reason, letter.detail, letter.raw[:200]] for letter in letters)
    return dg.AssetCheckEvaluation(
        dg.AssetKey(EVENTS),
        UNDERSTOOD,
        passed=not count,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{count} events were not understood or not acted on; see `ringrift-data events dead`" if count else None,
        metadata={"dead letters": table(["no.", "at", "host", "reason", "detail", "text"], rows)} if letters else {},
    )


def observation(done: Sequence[tuple[Told, Reaction]]) -> dg.AssetObservation:
    """What was told and what followed, an event a row."""
    kinds = Counter(told.event.type.value for told, _ in done)
    return dg.AssetObservation(
        EVENTS,
        description=", ".join(f"{count} {kind}" for kind, count in kinds.most_common()),
        metadata={
            "events": len(done),
            "operations": sum(len(reaction.operations) for _, reaction in done),
            "last event": done[-1][0].number,
            "here after s, at most": round(max(told.received_at - told.event.at for told, _ in done), 3),
            "what followed": table(
                ["happened", "event", "about", "what followed"],
                (_row(told, reaction) for told, reaction in done),
            ),
        },
    )


def _row(told: Told, reaction: Reaction) -> list[object]:
    """Few columns: the page wraps what is wide."""
    config, subject = subjects(told.event.payload)
    about = " ".join(word for word in (config, subject and f"on {subject}") if word)
    if subject != told.event.host:
        about = f"{about}, says {told.event.host}".removeprefix(", ")
    return [moment(told.event.at), f"{told.number} {told.event.type.value}", about, reaction.outcome]

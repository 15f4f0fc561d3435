"""The outbox on a host: durable, in order, bounded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from ringrift_dagster.events.adapters import NotUnderstood
from ringrift_dagster.events.outbox import BATCH_BYTES, BATCH_ENTRIES, Batch, DeadLetter, Outbox, OutboxFull
from tests.events.telling import NOW, event

DIES = """
import os, signal, sys
from pathlib import Path
from ringrift_dagster.events.outbox import Outbox
from tests.events.telling import event
outbox = Outbox(Path(sys.argv[1]))
outbox.append([event(games) for games in range(1, 501)])
print("accepted", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def waiting(outbox: Outbox) -> list[tuple[int, int]]:
    """(sequence, games) of what a push would send."""
    body = outbox.batch("gpu-1")
    sent = Batch.model_validate_json(body) if body else None
    return [(entry.sequence, (entry.event or {})["payload"]["games"]) for entry in sent.entries] if sent else []


def test_what_is_accepted_keeps_its_place(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "events.db")
    assert outbox.append([event(1), event(2)]) == [1, 2]
    assert outbox.append([event(3)]) == [3]
    outbox.acknowledge(outbox.epoch, 2, at=NOW)
    assert waiting(outbox) == [(3, 3)]
    outbox.close()
    again = Outbox(tmp_path / "events.db")
    assert again.epoch == outbox.epoch
    assert waiting(again) == [(3, 3)]
    again.acknowledge(again.epoch, 3, at=NOW)
    assert (waiting(again), again.batch("gpu-1")) == ([], None)
    again.close()
    last = Outbox(tmp_path / "events.db")
    assert last.append([event(4)]) == [4], "places are never given twice"
    assert (last.waiting().entries, last.waiting().acknowledged, last.waiting().acknowledged_at) == (1, 3, NOW)


def test_the_same_event_waits_once(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "events.db")
    same = event(1)
    assert outbox.append([same, event(2), same]) == [1, 2, None]
    assert outbox.append([same]) == [None]
    assert waiting(outbox) == [(1, 1), (2, 2)]


def test_what_was_accepted_outlives_a_kill(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", DIES, str(tmp_path / "events.db")]
    killed = subprocess.run(command, cwd=root, env=os.environ, check=False, timeout=60, stdout=subprocess.PIPE, text=True)
    assert (killed.returncode, killed.stdout) == (-signal.SIGKILL, "accepted\n")
    assert waiting(Outbox(tmp_path / "events.db")) == [(number, number) for number in range(1, 501)]


def test_a_full_outbox_refuses_and_takes_again_when_there_is_room(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "events.db", max_bytes=2000)
    with pytest.raises(OutboxFull, match="events wait for the coordinator"):
        for games in range(1, 100):
            outbox.append([event(games)])
    held = waiting(outbox)
    assert [games for _, games in held] == list(range(1, len(held) + 1)), "nothing that was accepted made room"
    with pytest.raises(OutboxFull):
        outbox.append([event(100), event(101)])
    assert waiting(outbox) == held, "of a refused batch nothing is taken"
    outbox.close()
    outbox = Outbox(tmp_path / "events.db", max_bytes=2000)
    with pytest.raises(OutboxFull):
        outbox.append([event(100)])
    outbox.acknowledge(outbox.epoch, 1, at=NOW)
    assert outbox.append([event(100)]) == [len(held) + 1]


def test_what_another_outbox_is_acknowledged_means_nothing_here(tmp_path: Path) -> None:
    outbox, other = Outbox(tmp_path / "a" / "events.db"), Outbox(tmp_path / "b" / "events.db")
    outbox.append([event(1)])
    outbox.acknowledge(other.epoch, 1, at=NOW)
    outbox.acknowledge(outbox.epoch, 0, at=NOW)
    assert waiting(outbox) == [(1, 1)]
    outbox.acknowledge(outbox.epoch, 900, at=NOW)
    assert (waiting(outbox), outbox.append([event(2)])) == ([], [2]), "nobody can acknowledge what was not there"


def test_batches_are_bounded(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "events.db")
    outbox.append([event(number) for number in range(1, 2 * BATCH_ENTRIES)])
    assert len(waiting(outbox)) == BATCH_ENTRIES
    large = Outbox(tmp_path / "large.db")
    letter = DeadLetter.of(NotUnderstood("not_json", "x"), "y" * 16_000, at=NOW)
    large.append([letter.model_copy(update={"id": event().id}) for _ in range(400)])
    body = large.batch("gpu-1") or b""
    assert BATCH_BYTES // 2 < len(body) < BATCH_BYTES + 100_000
    assert [entry["dead"]["reason"] for entry in orjson.loads(body)["entries"][:2]] == ["not_json", "not_json"]


def test_one_process_has_it(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "events.db")
    with pytest.raises(OSError):
        Outbox(tmp_path / "events.db")
    outbox.close()
    Outbox(tmp_path / "events.db").close()


def test_a_damaged_file_is_moved_aside(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "events.db")
    outbox.append([event(1)])
    outbox.close()
    (tmp_path / "events.db").write_bytes(b"no database at all" * 1000)
    new = Outbox(tmp_path / "events.db")
    assert (new.append([event(2)]), new.epoch != outbox.epoch) == ([1], True)
    assert (tmp_path / "events.db.damaged").exists()

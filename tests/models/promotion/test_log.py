"""The log of decisions: only added to, one outcome however many write, and what was current at any time."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ringrift_dagster.models.promotion.log import CurrentChanged, DecisionLog, Pinned

A, B, C = ("a" * 64, "b" * 64, "c" * 64)
CONFIG = "hex8_2p"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[DecisionLog]:
    with DecisionLog(tmp_path / "decisions.db") as opened:
        yield opened


def promote(log: DecisionLog, sha256: str, expected: str | None, config: str = CONFIG) -> None:
    log.append(config, "promote", sha256, who="anna", why="stronger", record={"games": 5}, expected=expected)


def test_the_current_model_is_that_of_the_last_promotion_or_rollback(log: DecisionLog) -> None:
    assert log.current(CONFIG) is None
    promote(log, A, None)
    promote(log, B, A)
    log.append(CONFIG, "refuse", C, who="anna", why="weaker", expected=B)
    log.append(CONFIG, "rollback", A, who="ben", why="it hung", expected=B)
    current = log.current(CONFIG)
    assert current is not None
    assert (current.sha256, current.kind, current.who, current.why) == (A, "rollback", "ben", "it hung")
    assert log.predecessors(CONFIG) == []
    assert (log.is_rolled_back(CONFIG, A), log.is_rolled_back(CONFIG, B)) == (False, True)
    assert [(entry.kind, entry.sha256) for entry in log.history(CONFIG)] == [
        ("rollback", A), ("refuse", C), ("promote", B), ("promote", A),
    ]  # fmt: skip
    assert log.history(CONFIG)[-1].record == {"games": 5}
    assert log.promotion(CONFIG, A).id == 1
    with pytest.raises(LookupError, match="cccccccccccc was never promoted for hex8_2p"):
        log.promotion(CONFIG, C)


def test_rollbacks_go_back_one_by_one(log: DecisionLog) -> None:
    for sha256, expected in ((A, None), (B, A), (C, B)):
        promote(log, sha256, expected)
    assert log.predecessors(CONFIG) == [B, A]
    log.append(CONFIG, "rollback", B, who="ben", why="it hung", expected=C)
    assert log.predecessors(CONFIG) == [A]
    log.append(CONFIG, "rollback", A, who="ben", why="it hung too", expected=B)
    assert log.predecessors(CONFIG) == []
    assert [log.is_rolled_back(CONFIG, sha256) for sha256 in (A, B, C)] == [False, True, True]


def test_a_damaged_record_is_no_decision(log: DecisionLog, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "decisions.db")) as connection, connection:
        insert = "INSERT INTO decisions (config, kind, sha256, at, who, why, record) VALUES (?, 'promote', ?, 1, '', '', 'x')"
        connection.execute(insert, (CONFIG, A))
    with pytest.raises(sqlite3.DatabaseError, match="decision 1 cannot be read"):
        log.current(CONFIG)


def test_configs_have_nothing_to_do_with_each_other(log: DecisionLog) -> None:
    promote(log, A, None)
    promote(log, B, None, "hex8_3p")
    current = log.current(CONFIG)
    assert current is not None
    assert current.sha256 == A
    assert log.history("hex8_4p") == []


def test_history_says_what_was_current_at_a_time(log: DecisionLog, monkeypatch: pytest.MonkeyPatch) -> None:
    for at, sha256, expected in ((100.0, A, None), (200.0, B, A), (300.0, C, B)):
        monkeypatch.setattr("time.time", lambda at=at: at)
        promote(log, sha256, expected)
    currents = [log.current(CONFIG, at) for at in (99.0, 100.0, 250.0, 1000.0)]
    assert [entry and entry.sha256 for entry in currents] == [None, A, B, C]
    assert len(log.history(CONFIG, 250.0)) == 2


def test_a_clock_that_goes_back_does_not_reorder_decisions(log: DecisionLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 200.0)
    promote(log, A, None)
    monkeypatch.setattr("time.time", lambda: 100.0)
    promote(log, B, A)
    entry = log.current(CONFIG, 200.0)
    assert entry is not None
    assert entry.sha256 == A
    later = log.current(CONFIG)
    assert later is not None
    assert (later.sha256, later.at > 200.0) == (B, True)


def test_a_decision_against_a_model_that_is_no_longer_current_is_refused(log: DecisionLog) -> None:
    promote(log, A, None)
    with pytest.raises(CurrentChanged, match="is aaaaaaaaaaaa, the decision was made when it was none: decide again"):
        promote(log, B, None)
    assert len(log.history(CONFIG)) == 1


def test_a_pinned_model_stays_until_it_is_released(log: DecisionLog) -> None:
    promote(log, A, None)
    log.append(CONFIG, "pin", A, who="anna", why="release week", expected=A)
    with pytest.raises(Pinned, match=r"pinned to aaaaaaaaaaaa by anna \(release week\): release it with"):
        promote(log, B, A)
    with pytest.raises(Pinned):
        log.append(CONFIG, "rollback", B, who="anna", why="why", expected=A)
    log.append(CONFIG, "refuse", B, who="anna", why="weaker", expected=A)
    log.append(CONFIG, "unpin", A, who="anna", why="over", expected=A)
    promote(log, B, A)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE decisions SET who = 'eve'",
        "DELETE FROM decisions",
        "INSERT OR REPLACE INTO decisions SELECT id, config, kind, 'f', at, who, why, record FROM decisions",
    ],
)
def test_nothing_is_changed_or_deleted(statement: str, log: DecisionLog, tmp_path: Path) -> None:
    promote(log, A, None)
    with (
        closing(sqlite3.connect(tmp_path / "decisions.db")) as connection,
        pytest.raises(sqlite3.IntegrityError, match="only added"),
    ):
        connection.execute(statement)


def _promote(path: Path, sha256: str) -> None:
    with DecisionLog(path) as log:
        try:
            promote(log, sha256, None)
        except CurrentChanged:
            os._exit(3)


def test_of_two_promotions_at_once_one_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "decisions.db"
    context = get_context("fork")
    processes = [context.Process(target=_promote, args=(path, sha256)) for sha256 in (A, B, C)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(process.exitcode or 0 for process in processes) == [0, 3, 3]
    with DecisionLog(path) as log:
        assert len(log.history(CONFIG)) == 1


def test_a_decision_whose_process_is_killed_is_recorded_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "decisions.db"
    child = os.fork()
    if child == 0:
        with DecisionLog(path) as log:
            log._connection.execute("BEGIN IMMEDIATE")
            log._connection.execute(
                "INSERT INTO decisions (config, kind, sha256, at, who, why, record) VALUES (?, 'promote', ?, 1, '', '', '{}')",
                (CONFIG, A),
            )
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    with DecisionLog(path) as log:
        assert log.history(CONFIG) == []
        promote(log, B, None)


class Decisions(RuleBasedStateMachine):
    """Any sequence of decisions, beside a model of what they mean."""

    @initialize()
    def start(self) -> None:
        self.directory = TemporaryDirectory()
        self.log = DecisionLog(Path(self.directory.name) / "decisions.db")
        self.stack: list[str] = []
        self.pinned = False

    @property
    def current(self) -> str | None:
        return self.stack[-1] if self.stack else None

    @rule(sha256=st.sampled_from([A, B, C]), kind=st.sampled_from(["promote", "rollback"]))
    def make_current(self, sha256: str, kind: str) -> None:
        try:
            self.log.append(CONFIG, kind, sha256, who="w", why="y", expected=self.current)  # type: ignore[arg-type]
        except Pinned:
            assert self.pinned
        else:
            assert not self.pinned
            if kind == "rollback" and sha256 in self.stack:
                while self.stack[-1] != sha256:
                    self.stack.pop()
            elif self.current != sha256:
                self.stack.append(sha256)

    @rule(sha256=st.sampled_from([A, B, C]))
    def refuse(self, sha256: str) -> None:
        self.log.append(CONFIG, "refuse", sha256, who="w", why="y", expected=self.current)

    @rule(sha256=st.sampled_from([A, B, C]), expected=st.sampled_from([None, A, B, C]))
    def decide_late(self, sha256: str, expected: str | None) -> None:
        if expected != self.current:
            with pytest.raises(CurrentChanged):
                self.log.append(CONFIG, "promote", sha256, who="w", why="y", expected=expected)

    @precondition(lambda self: self.stack)
    @rule(kind=st.sampled_from(["pin", "unpin"]))
    def pin(self, kind: str) -> None:
        self.log.append(CONFIG, kind, self.stack[-1], who="w", why="y", expected=self.current)  # type: ignore[arg-type]
        self.pinned = kind == "pin"

    @invariant()
    def the_log_agrees(self) -> None:
        entry = self.log.current(CONFIG)
        assert (entry and entry.sha256) == self.current
        assert self.log.predecessors(CONFIG) == self.stack[-2::-1]
        assert not (self.current and self.log.is_rolled_back(CONFIG, self.current))
        assert (self.log.pin(CONFIG) is not None) == self.pinned

    def teardown(self) -> None:
        self.log.__exit__()
        self.directory.cleanup()


TestDecisions = Decisions.TestCase
TestDecisions.settings = settings(max_examples=20, stateful_step_count=15)

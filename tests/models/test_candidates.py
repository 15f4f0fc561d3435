"""Candidates: registered by content, and disqualified by everything that is not known."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path

import pytest

from ringrift_dagster.datasets.training_sets import TrainingSet
from ringrift_dagster.games.config import CONFIGS, parse_config
from ringrift_dagster.home import Home
from ringrift_dagster.models.candidates import (
    PROBLEMS,
    Candidate,
    RegistrationRefused,
    UnknownCandidate,
    candidates,
    directory,
    find,
    qualify,
    register,
    unreadable_records,
)
from ringrift_dagster.models.checkpoints.refusals import CheckpointRefused
from tests.models.conftest import CONFIG
from tests.models.making import model_file


def take_in(home: Home, file: Path, config: str = CONFIG, **values: object) -> Candidate:
    return register(home, file, parse_config(config), origin="test", who="anna", **values)  # type: ignore[arg-type]


def began(trained: TrainingSet, hours: float = 1.0) -> float:
    """A time so long after the newest game of the training set."""
    assert trained.newest_game is not None
    return (trained.newest_game + timedelta(hours=hours)).timestamp()


def codes(home: Home, candidate: Candidate, **values: float) -> list[str]:
    problems = qualify(home, candidate, **values).problems
    assert all(problem.code in PROBLEMS and problem.text for problem in problems)
    return [problem.code for problem in problems]


def test_a_model_of_its_config_with_known_and_fresh_data_qualifies(home: Home, trained: TrainingSet, tmp_path: Path) -> None:
    file = model_file(tmp_path / "any_name.pth", CONFIG)
    candidate = take_in(home, file, training_data_sha256=trained.sha256, training_began=began(trained))
    qualification = qualify(home, candidate)
    assert qualification.problems == ()
    assert qualification.training_set == trained
    assert qualification.path.read_bytes() == file.read_bytes()
    assert candidates(home, CONFIG) == [candidate]


def test_what_the_file_records_about_its_training_counts(home: Home, trained: TrainingSet, tmp_path: Path) -> None:
    info = {"training_data_sha256": trained.sha256, "started_at": began(trained)}
    candidate = take_in(home, model_file(tmp_path / "m.pth", CONFIG, training_info=info))
    assert (candidate.training_data_sha256, candidate.training_began) == (trained.sha256, began(trained))
    assert codes(home, candidate) == []


@pytest.mark.parametrize("date", ["1900-01-01", "0001-01-01T00:00:00+14:00", "9999-12-31", "tomorrow", -1, 1e12])
def test_a_time_that_no_record_takes_is_no_time(date: object, home: Home, tmp_path: Path) -> None:
    assert take_in(home, model_file(tmp_path / "m.pth", CONFIG, training_info={"started_at": date})).training_began is None


def test_what_a_killed_registration_leaves_is_removed_by_the_next(home: Home, tmp_path: Path) -> None:
    abandoned = directory(home, CONFIG) / ".candidate-1a2b3c.part"
    abandoned.parent.mkdir(parents=True)
    abandoned.write_bytes(b"half")
    take_in(home, model_file(tmp_path / "m.pth", CONFIG))
    assert not abandoned.exists()


@pytest.mark.parametrize("config", [config.key for config in CONFIGS])
def test_a_model_of_another_config_is_none_of_this_one(config: str, home: Home, trained: TrainingSet, tmp_path: Path) -> None:
    known = {"training_data_sha256": trained.sha256, "training_began": began(trained)}
    found = codes(home, take_in(home, model_file(tmp_path / "m.pth", config), **known))
    assert (found == []) == (config == CONFIG)
    assert "config_mismatch" in found or config == CONFIG


def test_missing_evidence_disqualifies(home: Home, trained: TrainingSet, tmp_path: Path) -> None:
    nothing = take_in(home, model_file(tmp_path / "a.pth", CONFIG, 1))
    assert codes(home, nothing) == ["provenance_unknown", "training_time_unknown"]
    foreign = take_in(home, model_file(tmp_path / "b.pth", CONFIG, 2), training_data_sha256="0" * 64, training_began=began(trained))
    assert codes(home, foreign) == ["provenance_unknown"]


@pytest.mark.parametrize(
    ("hours", "limit", "expected"), [(47.0, 48.0, []), (49.0, 48.0, ["stale_data"]), (3.0, 2.0, ["stale_data"])]
)
def test_data_are_stale_by_the_age_of_the_newest_game_when_training_began(
    hours: float, limit: float, expected: list[str], home: Home, trained: TrainingSet, tmp_path: Path
) -> None:
    known = {"training_data_sha256": trained.sha256, "training_began": began(trained, hours)}
    candidate = take_in(home, model_file(tmp_path / "m.pth", CONFIG), **known)
    assert codes(home, candidate, max_data_age=limit * 3600) == expected


def test_a_training_set_of_another_config_or_encoder(home: Home, trained: TrainingSet, tmp_path: Path) -> None:
    known = {"training_data_sha256": trained.sha256, "training_began": began(trained)}
    other = take_in(home, model_file(tmp_path / "a.pth", "square8_2p"), "square8_2p", **known)
    assert codes(home, other) == ["config_mismatch"]
    version = take_in(home, model_file(tmp_path / "b.pth", CONFIG, feature_version=1), **known)
    assert codes(home, version) == ["encoder_mismatch"]


def test_equal_name_and_size_are_no_identity(home: Home, tmp_path: Path) -> None:
    file = model_file(tmp_path / "candidate.pth", CONFIG, 1)
    first, size = take_in(home, file), file.stat().st_size
    second = take_in(home, model_file(file, CONFIG, 2))
    assert file.stat().st_size == size
    assert first.sha256 != second.sha256
    assert {entry.sha256 for entry in candidates(home, CONFIG)} == {first.sha256, second.sha256}


def test_a_second_registration_adds_what_the_first_lacked_and_contradicts_nothing(home: Home, tmp_path: Path) -> None:
    file = model_file(tmp_path / "m.pth", CONFIG)
    first = take_in(home, file)
    second = take_in(home, file, training_data_sha256="1" * 64)
    assert second == first.model_copy(update={"training_data_sha256": "1" * 64})
    assert take_in(home, file) == second
    with pytest.raises(RegistrationRefused, match="the training set is recorded as 111111111111, given as 222222222222"):
        take_in(home, file, training_data_sha256="2" * 64)
    assert candidates(home, CONFIG) == [second]


def test_a_damaged_candidate_is_mended_by_registering_it_again(home: Home, trained: TrainingSet, tmp_path: Path) -> None:
    known = {"training_data_sha256": trained.sha256, "training_began": began(trained)}
    file = model_file(tmp_path / "m.pth", CONFIG)
    candidate = take_in(home, file, **known)
    kept = directory(home, CONFIG) / candidate.file
    kept.write_bytes(file.read_bytes()[:-1] + b"x")
    assert codes(home, candidate) == ["file_damaged"]
    kept.unlink()
    assert codes(home, candidate) == ["file_damaged"]
    take_in(home, file, **known)
    assert codes(home, candidate) == []


def test_what_is_refused_leaves_nothing_behind(home: Home, tmp_path: Path) -> None:
    file = tmp_path / "m.pth"
    file.write_bytes(b"no model")
    with pytest.raises(CheckpointRefused):
        take_in(home, file)
    for missing in (tmp_path / "none.pth", Path("/dev/zero"), tmp_path):
        with pytest.raises(CheckpointRefused, match="unreadable"):
            take_in(home, missing)
    assert [path for path in directory(home, CONFIG).iterdir() if path.suffix == ".part"] == []
    assert candidates(home, CONFIG) == []


def test_a_record_that_contradicts_its_file_disqualifies(home: Home, trained: TrainingSet, tmp_path: Path) -> None:
    known = {"training_data_sha256": trained.sha256, "training_began": began(trained)}
    good = take_in(home, model_file(tmp_path / "good.pth", CONFIG, 1), **known)
    other = take_in(home, model_file(tmp_path / "other.pth", "hex8_2p", 2), **known)
    assert codes(home, good) == []
    record = directory(home, CONFIG) / f"{other.sha256}.json"
    record.write_text(other.model_copy(update={"facts": good.facts}).model_dump_json())
    (lied,) = [entry for entry in candidates(home, CONFIG) if entry.sha256 == other.sha256]
    assert codes(home, lied) == ["file_damaged"]
    record.rename(record.with_name(f"{'0' * 64}.json"))
    assert candidates(home, CONFIG) == [good], "a record under another name is none"


@pytest.mark.parametrize("hours", [-2.0, 24 * 365 * 100.0])
def test_a_time_that_cannot_be_true_is_unknown(hours: float, home: Home, trained: TrainingSet, tmp_path: Path) -> None:
    known = {"training_data_sha256": trained.sha256, "training_began": began(trained, hours)}
    candidate = take_in(home, model_file(tmp_path / "m.pth", CONFIG), **known)
    assert "training_time_unknown" in codes(home, candidate)


def test_a_record_that_cannot_be_read_is_no_candidate(home: Home, tmp_path: Path) -> None:
    candidate = take_in(home, model_file(tmp_path / "m.pth", CONFIG))
    record = directory(home, CONFIG) / f"{candidate.sha256}.json"
    record.write_text(record.read_text()[:-20])
    assert candidates(home, CONFIG) == []
    assert unreadable_records(home, CONFIG) == [record]
    take_in(home, tmp_path / "m.pth")
    assert unreadable_records(home, CONFIG) == []


def test_candidates_are_found_by_the_beginning_of_their_hash(home: Home, tmp_path: Path) -> None:
    candidate = take_in(home, model_file(tmp_path / "m.pth", CONFIG))
    assert find(home, candidate.sha256[:8]) == find(home, candidate.sha256.upper()) == candidate
    for prefix, message in ((candidate.sha256[:7], "too short"), ("0" * 8, "no candidate begins with")):
        with pytest.raises(UnknownCandidate, match=message):
            find(home, prefix)
    with pytest.raises(UnknownCandidate, match="no candidate of hex8_2p"):
        find(home, candidate.sha256, "hex8_2p")
    take_in(home, tmp_path / "m.pth", "square8_3p")
    with pytest.raises(UnknownCandidate, match="ambiguous"):
        find(home, candidate.sha256)


def _register(root: Path, file: Path, number: int) -> None:
    register(Home(root), file, parse_config(CONFIG), origin="test", who=str(number), metrics={str(number): number})


def test_several_processes_register_one_file(home: Home, tmp_path: Path) -> None:
    file = model_file(tmp_path / "m.pth", CONFIG)
    context = get_context("fork")
    processes = [context.Process(target=_register, args=(home.root, file, number)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    (candidate,) = candidates(home, CONFIG)
    assert candidate.metrics == {str(number): number for number in range(4)}


@contextmanager
def staged_by_another(folder: Path) -> Iterator[Path]:
    """A file that another registration has staged."""
    with (folder / ".candidate-other.part").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield folder / ".candidate-other.part"


def test_a_registration_that_is_killed_is_none(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record is written last; a process that ends before has registered nothing, and the next one completes it."""
    file = model_file(tmp_path / "m.pth", CONFIG)
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(Candidate, "model_dump_json", lambda *_, **__: os._exit(9))
        take_in(home, file)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert candidates(home, CONFIG) == []
    (directory(home, CONFIG) / ".candidate-dead.part").write_bytes(file.read_bytes()[:100])
    with staged_by_another(directory(home, CONFIG)) as theirs:
        assert candidates(home, CONFIG) == [] != [take_in(home, file)] == candidates(home, CONFIG)
        assert list(directory(home, CONFIG).glob(".candidate-*")) == [theirs], "which a registration that goes on owns"


def test_a_set_of_which_no_time_is_known_is_stale(
    trained: TrainingSet, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ringrift_dagster.models.candidates.training_set", lambda *_: replace(trained, newest_game=None))
    candidate = take_in(
        home, model_file(tmp_path / "m.pth", CONFIG), training_data_sha256=trained.sha256, training_began=began(trained)
    )
    assert codes(home, candidate) == ["stale_data"]

"""The assets of models: what they show, what their checks say, and that only evidence promotes."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

from ringrift_dagster.datasets.training_sets import TrainingSet
from ringrift_dagster.defs.models.sensors import new_candidates_sensor
from ringrift_dagster.games.config import parse_config
from ringrift_dagster.home import Home
from ringrift_dagster.models.candidates import Candidate, directory, register
from ringrift_dagster.models.promotion.decision import default_rules
from ringrift_dagster.models.promotion.log import DecisionLog
from ringrift_dagster.models.promotion.promoting import log_path, model_participant, opponents_of, published_path
from tests.models.conftest import CONFIG, exported, trained
from tests.models.making import model_file
from tests.models.promotion.test_promoting import STRONG, WEAK, played

from .conftest import checks, failure, materialized

__all__ = ["exported", "trained"]

PARSED = parse_config(CONFIG)
RULES = default_rules(PARSED.players)
BASELINES = opponents_of(PARSED, None, RULES).values()
JOB = "promotion_job"
Run = Callable[..., dg.ExecuteInProcessResult]
Make = Callable[..., Candidate]


@pytest.fixture
def make(home: Home, trained: TrainingSet, tmp_path: Path) -> Make:
    """Registers a model; with evidence against the baselines unless `results` say otherwise."""

    def register_one(seed: int, config: str = CONFIG, *, results: tuple[str, ...] = STRONG) -> Candidate:
        assert trained.newest_game is not None
        began = (trained.newest_game + timedelta(hours=1)).timestamp()
        candidate = register(
            home, model_file(tmp_path / "model.pth", config, seed), PARSED, origin="test", who="anna",
            training_data_sha256=trained.sha256, training_began=began,
        )  # fmt: skip
        for opponent in BASELINES:
            played(home, candidate.sha256, opponent, results, ended=time.time())  # type: ignore[arg-type]
        return candidate

    return register_one


def current(home: Home) -> str | None:
    with DecisionLog(log_path(home)) as log:
        entry = log.current(CONFIG)
    return entry and entry.sha256


def test_the_first_candidate_with_enough_evidence_is_promoted_and_published(run: Run, make: Make, home: Home) -> None:
    candidate = make(1)
    result = run(JOB, CONFIG)
    assert result.success, failure(result)
    made = materialized(result)
    assert made["promoted_models"].metadata["current model"].value == candidate.sha256
    assert (made["promoted_models"].tags or {})["dagster/data_version"] == candidate.sha256
    assert "Promoted." in made["promoted_models"].metadata["rationale"].value
    assert made["evaluation_games"].metadata["dagster/row_count"].value == len(BASELINES) * 100 * PARSED.players
    assert {name: (check.passed, check.blocking) for name, check in checks(result).items()} == {
        **dict.fromkeys(["readable", "config_matches", "encoder_matches", "provenance_known", "data_fresh"], (True, False)),
        **dict.fromkeys(["evidence_sufficient", "beats_incumbent", "floors_held", "uncontaminated", "file_sound"], (True, True)),
    }
    assert (published_path(home) / f"canonical_{CONFIG}.pth").read_bytes() == (
        directory(home, CONFIG) / candidate.file
    ).read_bytes()


def test_a_worse_one_is_refused_and_one_without_games_stays_a_candidate(run: Run, make: Make, home: Home) -> None:
    first = make(1)
    assert run(JOB, CONFIG).success
    worse = make(2)
    played(home, worse.sha256, model_participant(first.sha256, RULES), WEAK, ended=time.time())
    result = run(JOB, CONFIG)
    assert result.success, failure(result)
    assert current(home) == first.sha256
    decided = materialized(result)["promoted_models"].metadata["candidates decided on now"].value
    assert f"| `{worse.sha256[:12]}` | refuse | not_stronger |" in decided
    better = make(3)
    played(home, better.sha256, model_participant(first.sha256, RULES), STRONG, ended=time.time())
    result = run(JOB, CONFIG)
    assert result.success, failure(result)
    assert current(home) == better.sha256
    shown = materialized(result)["promoted_models"].metadata
    assert shown["course of the test"].value.startswith("![log-likelihood ratio by blocks](data:image/svg+xml;base64,")
    assert shown["log-likelihood ratio"].value > 2.9
    assert [line.split(" | ")[1] for line in shown["decisions"].value.splitlines()[2:]] == ["promote", "refuse", "promote"]


def test_one_that_does_not_qualify_fails_its_checks_and_is_refused(run: Run, make: Make, home: Home) -> None:
    candidate = make(1, "square8_3p")
    result = run(JOB, CONFIG)
    assert result.success, failure(result)
    found = checks(result)
    assert (found["config_matches"].passed, found["readable"].passed) == (False, True)
    assert "the file says square8_3p, it is registered for square8_4p" in (found["config_matches"].description or "")
    assert "promoted_models" not in materialized(result)
    assert current(home) is None
    with DecisionLog(log_path(home)) as log:
        entry = log.last_about(CONFIG, candidate.sha256)
    assert entry is not None
    assert entry.kind == "refuse"


def test_below_a_floor_nothing_is_promoted_and_the_run_says_why(run: Run, make: Make, home: Home) -> None:
    make(1, results=WEAK)
    result = run(JOB, CONFIG)
    assert result.success, failure(result)
    (observation,) = [event.asset_observation_data.asset_observation for event in result.get_asset_observation_events()]
    assert observation.description == f"no model of {CONFIG} is promoted"
    assert "does not reach a floor" in str(observation.metadata["rationale"].value)
    assert current(home) is None


def test_a_damaged_published_file_is_mended_by_the_next_run(run: Run, make: Make, home: Home) -> None:
    candidate = make(1)
    assert run(JOB, CONFIG).success
    name = published_path(home) / f"canonical_{CONFIG}.pth"
    name.unlink()
    name.write_bytes(b"other")
    result = run(JOB, CONFIG)
    assert result.success, failure(result)
    assert name.read_bytes() == (directory(home, CONFIG) / candidate.file).read_bytes()


def test_without_candidates_the_run_says_how_to_register_one(run: Run, trained: TrainingSet) -> None:
    result = run(JOB, CONFIG)
    assert not result.success
    assert f"`ringrift-data models register FILE --config {CONFIG}` takes one in" in failure(result)


def test_the_sensor_asks_for_one_run_for_each_new_set_of_candidates(make: Make, home: Home, instance: dg.DagsterInstance) -> None:
    def tick(cursor: str | None) -> dg.SensorResult:
        return _tick(home, instance, cursor)

    nothing = tick(None)
    assert (nothing.run_requests, nothing.skip_reason) == ([], dg.SkipReason("no new candidates or decisions (0 are registered)"))
    make(1)
    first = tick(nothing.cursor)
    assert [request.partition_key for request in first.run_requests or []] == [CONFIG]
    assert tick(first.cursor).run_requests == []
    make(2)
    second = tick(first.cursor)
    assert [request.partition_key for request in second.run_requests or []] == [CONFIG]
    assert (first.run_requests or [])[0].run_key != (second.run_requests or [])[0].run_key


def test_a_decision_at_a_prompt_asks_for_a_run_too(run: Run, make: Make, home: Home, instance: dg.DagsterInstance) -> None:
    candidate = make(1)
    first = _tick(home, instance, None)
    assert run(JOB, CONFIG).success
    second = _tick(home, instance, first.cursor)
    assert [request.partition_key for request in second.run_requests or []] == [CONFIG]
    with DecisionLog(log_path(home)) as log:
        log.append(CONFIG, "rollback", candidate.sha256, who="anna", why="test", expected=candidate.sha256)
    third = _tick(home, instance, second.cursor)
    assert [request.partition_key for request in third.run_requests or []] == [CONFIG]
    assert _tick(home, instance, third.cursor).run_requests == []


def _tick(home: Home, instance: dg.DagsterInstance, cursor: str | None) -> dg.SensorResult:
    context = dg.build_sensor_context(instance=instance, cursor=cursor, resources={"home": _resource(home)})
    result = new_candidates_sensor(context)
    assert isinstance(result, dg.SensorResult)
    return result


def _resource(home: Home):  # type: ignore[no-untyped-def]
    from ringrift_dagster.defs.resources import HomeResource

    return HomeResource(root=str(home.root))

"""The assets of models: what they show, what their checks say, and that only evidence promotes."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest

from ringrift_dagster.cli.services import free_port
from ringrift_dagster.datasets.training_sets import TrainingSet
from ringrift_dagster.defs.models.sensors import RETRY_SECONDS, new_candidates_sensor
from ringrift_dagster.defs.resources import HomeResource, PlaneResource
from ringrift_dagster.games.config import parse_config
from ringrift_dagster.games.database import file_sha256
from ringrift_dagster.home import Home
from ringrift_dagster.manifest.inventory import FoundItem, ItemType
from ringrift_dagster.manifest.store import Store, default_url
from ringrift_dagster.models.candidates import Candidate, directory, register
from ringrift_dagster.models.promotion.decision import default_rules
from ringrift_dagster.models.promotion.log import DecisionLog
from ringrift_dagster.models.promotion.promoting import log_path, model_participant, opponents_of, published_path
from ringrift_dagster.models.refused import RefusedCheckpoint, record_refusal
from tests.manifest.telling import declared, dies, digest_of, item, tell
from tests.models.conftest import CONFIG, exported, trained
from tests.models.making import model_file
from tests.models.promotion.test_promoting import STRONG, WEAK, played
from tests.transfer.field import running_field
from tests.transfer.test_candidates import HOSTILE, ROOM

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


def test_checkpoints_on_hosts_become_candidates_and_what_is_refused_is_shown(
    run: Run, home: Home, trained: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trained.newest_game is not None
    began = (trained.newest_game + timedelta(hours=1)).timestamp()
    facts = {"training_data_sha256": trained.sha256, "training_info": {"started_at": began}}
    data = model_file(tmp_path / "model.pth", CONFIG, 1, **facts).read_bytes()
    with running_field(tmp_path, {"gpu-1": ""}, sections=ROOM, others={"gpu-2": f"http://127.0.0.1:{free_port()}"}) as field:
        monkeypatch.setenv("RINGRIFT_HOSTS_FILE", str(tmp_path / "hosts.yaml"))
        hostile = field.put("gpu-1", HOSTILE, f"models/candidate_{CONFIG}_hostile.pth")
        field.refresh()
        result = run(JOB, CONFIG, ["candidate_models"])
        assert not result.success
        assert f"no candidate of {CONFIG} is registered" in failure(result)
        sha256 = field.put("gpu-1", data, f"models/candidate_{CONFIG}.pth")
        field.refresh()
        tell(field.plane.store, "gpu-2", [_checkpoint("lost")], at=time.time())
        result = run(JOB, CONFIG, ["candidate_models"])
    assert result.success, failure(result)
    shown = materialized(result)["candidate_models"].metadata
    assert (shown["newest candidate"].value, shown["origin"].value) == (sha256, f"gpu-1: models/candidate_{CONFIG}.pth")
    counts = [shown[name].value for name in ("found on hosts", "refused checkpoints", "not fetched from hosts")]
    assert counts == [1, 1, 1]
    rows = [line.strip("| ").split(" | ") for line in shown["checkpoints on hosts"].value.splitlines()[2:]]
    assert [(row[0].strip("`"), row[2]) for row in rows] == [
        (sha256[:12], "registered"),
        (digest_of("lost")[:12], "not fetched"),
        (hostile[:12], "refused"),
    ]
    assert rows[2][3].startswith("forbidden_global: ")
    assert all(check.passed for check in checks(result).values())


def test_a_new_checkpoint_on_a_host_asks_for_one_run(
    home: Home, location: dg.Definitions, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And for another one an hour later if none was fetched and its host answers, unless a run is under way."""
    clock = time.time()
    monkeypatch.setattr("ringrift_dagster.defs.models.sensors.time", SimpleNamespace(time=lambda: clock))

    def tick(cursor: str | None) -> tuple[list[str | None], str | None]:
        result = _tick(home, instance, cursor)
        keys.extend(request.run_key for request in result.run_requests or [])
        return [request.partition_key for request in result.run_requests or []], result.cursor

    keys: list[str | None] = []
    with Store.open(default_url(home)) as store:
        declared(store)
        asked, cursor = tick(None)
        assert asked == []
        tell(store, "vast-1", [_checkpoint("one")], at=clock)
        asked, cursor = tick(cursor)
        assert asked == [CONFIG]
        assert tick(cursor)[0] == []
        tell(store, "vast-2", [_checkpoint("one")], at=clock)  # the same bytes
        clock += RETRY_SECONDS - 1
        assert tick(cursor)[0] == []
        clock += 1
        busy = instance.create_run_for_job(
            location.resolve_job_def(JOB), tags={"dagster/partition": CONFIG}, status=dg.DagsterRunStatus.STARTED
        )
        assert tick(cursor)[0] == []
        instance.delete_run(busy.run_id)
        asked, cursor = tick(cursor)
        assert asked == [CONFIG]
        assert tick(cursor)[0] == []
        for host in ("vast-1", "vast-2"):
            dies(store, host, at=clock)
        clock += RETRY_SECONDS
        assert tick(cursor)[0] == []  # nobody can give it
        tell(store, "vast-1", [_checkpoint("one"), _checkpoint("two")], at=clock)
        asked, cursor = tick(cursor)
        assert asked == [CONFIG]
    assert len(set(keys)) == 3


def test_a_checkpoint_that_is_too_large_is_asked_for_once(
    home: Home, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.open(default_url(home)) as store:
        declared(store)
        tell(store, "vast-1", [_checkpoint("huge").model_copy(update={"size": 1 << 40})], at=time.time())
    first = _tick(home, instance, None)
    assert [request.partition_key for request in first.run_requests or []] == [CONFIG]
    later = time.time() + RETRY_SECONDS
    monkeypatch.setattr("ringrift_dagster.defs.models.sensors.time", SimpleNamespace(time=lambda: later))
    assert _tick(home, instance, first.cursor).run_requests == []


def test_what_a_run_makes_of_checkpoints_asks_for_no_other(
    home: Home, trained: TrainingSet, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    file = model_file(tmp_path / "model.pth", CONFIG, 1)
    with Store.open(default_url(home)) as store:
        declared(store)
        found = [_checkpoint("refused"), _checkpoint("new").model_copy(update={"sha256": file_sha256(file)})]
        tell(store, "vast-1", found, at=time.time())
    first = _tick(home, instance, None)
    assert [request.partition_key for request in first.run_requests or []] == [CONFIG]
    register(home, file, PARSED, origin="test", who="anna")
    refusal = RefusedCheckpoint(sha256=digest_of("refused"), config=CONFIG, reason="truncated", detail="", origin="", at=1.0)
    record_refusal(home, refusal)
    second = _tick(home, instance, first.cursor)
    assert second.run_requests == []
    assert second.skip_reason == dg.SkipReason("no new candidates or decisions (1 are registered)")


def _checkpoint(content: str) -> FoundItem:
    return item(f"models/candidate_{content}.pth", content, type=ItemType.CHECKPOINT, config=CONFIG)


def _tick(home: Home, instance: dg.DagsterInstance, cursor: str | None) -> dg.SensorResult:
    resource = HomeResource(root=str(home.root))
    resources = {"home": resource, "plane": PlaneResource(home=resource)}
    with dg.build_sensor_context(instance=instance, cursor=cursor, resources=resources) as context:
        result = new_candidates_sensor(context)
    assert isinstance(result, dg.SensorResult)
    return result

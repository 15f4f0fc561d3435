"""`selfplay_games`: what it plays, what its checks say, what it refuses, and that the rest of the pipeline takes its games."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import dagster as dg
import pytest

from ringrift_dagster.ai.selfplay import Written
from ringrift_dagster.defs.selfplay import games as asset
from ringrift_dagster.home import Home

from .conftest import QUIET, checks, declare, failure, materialized

Run = Callable[..., dg.ExecuteInProcessResult]
Play = Callable[..., dg.ExecuteInProcessResult]
NAME = "selfplay_games"


@pytest.fixture
def play(location: dg.Definitions, instance: dg.DagsterInstance, home: Home) -> Play:
    """Materialises `selfplay_games` with this configuration, by one process unless told otherwise."""

    def execute(partition: str = "hex8_2p", **config: Any) -> dg.ExecuteInProcessResult:
        return location.resolve_job_def("selfplay_job").execute_in_process(
            instance=instance,
            partition_key=partition,
            run_config={**QUIET, "ops": {NAME: {"config": {"workers": 1, **config}}}},
            raise_on_error=False,
        )

    return execute


def metadata(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    return {name: value.value for name, value in materialized(result)[NAME].metadata.items()}


def data_version(result: dg.ExecuteInProcessResult) -> str:
    return (materialized(result)[NAME].tags or {})["dagster/data_version"]


def databases(home: Home) -> list[str]:
    return sorted(path.name for path in home.selfplay.glob("*.db"))


def test_games_are_played_and_the_pipeline_makes_a_training_set_of_them(play: Play, run: Run, home: Home) -> None:
    result = play(games=3, seed=7, ais="heuristic,random")

    assert result.success, failure(result)
    assert databases(home) == ["ringrift_dagster_hex8_2p_7.db"]
    shown = metadata(result)
    assert [shown[name] for name in ("games", "games played now", "AIs", "seed")] == [3, 3, "heuristic,random", 7]
    assert shown["database"] == str(home.selfplay / "ringrift_dagster_hex8_2p_7.db")
    assert shown["digest root"] == data_version(result)
    assert shown["results"].splitlines()[0] == "| ending | won by seat 1 | won by seat 2 | games |"
    assert shown["results"].splitlines()[-1].endswith("| 3 |")
    found = checks(result)
    assert {name: (found[name].passed, found[name].blocking) for name in found} == {
        "complete": (True, True),
        "same_seed_same_digests": (True, True),
    }

    pipeline = run("training_data_job", "hex8_2p")

    assert pipeline.success, failure(pipeline)
    made = materialized(pipeline)
    assert made["selfplay_databases"].metadata["games"].value == 3
    assert made["canonical_games"].metadata["dagster/row_count"].value == 3
    assert made["canonical_games"].metadata["moves"].value == shown["moves"]
    assert made["canonical_games"].metadata["digest root"].value == shown["digest root"]
    assert made["training_npz"].metadata["games"].value == 3
    assert all(check.passed for check in checks(pipeline).values())


def test_the_same_again_plays_nothing_and_more_games_play_what_is_missing(play: Play, home: Home) -> None:
    first, again, more = play(games=1), play(games=1), play(games=3, workers=2)

    assert [metadata(result)["games played now"] for result in (first, again, more)] == [1, 0, 2]
    assert [metadata(result)["games"] for result in (first, again, more)] == [1, 1, 3]
    assert data_version(first) == data_version(again) != data_version(more)
    fewer = play(games=2)
    assert [metadata(fewer)[name] for name in ("games played now", "games")] == [0, 3]
    assert checks(fewer)["complete"].passed


def test_another_seed_is_another_database(play: Play, home: Home) -> None:
    assert data_version(play(games=1, seed=1)) != data_version(play(games=1, seed=2))
    assert databases(home) == ["ringrift_dagster_hex8_2p_1.db", "ringrift_dagster_hex8_2p_2.db"]


def test_without_configuration_few_games_are_played_on_large_boards(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def stop(run: Any, games: int, path: Any, **options: Any) -> Written:
        asked.append(games)
        raise ValueError("not now")

    monkeypatch.setattr(asset, "record", stop)
    for config in ("square8_4p", "hex8_2p", "square19_3p", "hexagonal_2p"):
        play(config)
    assert asked == [20, 20, 4, 4]


def test_it_refuses_beside_hosts_that_play_unless_told(play: Play, home: Home) -> None:
    declare(home, gpu_1=None, gpu_2=None)

    refused = play(games=1)

    assert not refused.success
    assert failure(refused).startswith("the hosts file has hosts that play (gpu-1, gpu-2)")
    assert "also_with_selfplay_hosts: true" in failure(refused)
    assert not home.selfplay.exists()
    assert play(games=1, also_with_selfplay_hosts=True).success


def test_hosts_that_do_not_play_are_no_reason_to_refuse(play: Play, home: Home) -> None:
    path = declare(home, gpu_1=None, gone=None)
    text = path.read_text().replace("  gpu-1:\n", "  gpu-1:\n    selfplay_enabled: false\n")
    first, second = text.split("  gone:\n")
    path.write_text(first + "  gone:\n" + second.replace("status: ready", "status: retired"))

    assert play(games=1).success


def test_a_hosts_file_that_cannot_be_read_is_no_permission(play: Play, home: Home) -> None:
    home.root.mkdir(parents=True)
    (home.root / "distributed_hosts.yaml").write_text("hosts: [")

    result = play(games=1)

    assert not result.success
    assert failure(result).startswith("the hosts file cannot be used")


@pytest.mark.parametrize(
    ("partition", "config", "message"),
    [
        ("hex8_2p", {"ais": "herustic"}, "unknown AI 'herustic' (nearest: heuristic)"),
        ("hex8_2p", {"ais": "descent"}, "descent is played by RingRift only"),
        ("hex8_3p", {"swap_rule": True}, "sides are swapped with two players only"),
        ("hex8_2p", {"seed": 2**63}, "the seed is a number from 0"),
    ],
)
def test_what_cannot_be_played_is_refused_in_one_line(
    play: Play, home: Home, partition: str, config: dict[str, Any], message: str
) -> None:
    result = play(partition, games=1, **config)

    assert not result.success
    assert message in failure(result)
    assert "\n" not in failure(result)
    assert databases(home) == []


def test_a_database_of_other_ais_is_left_alone(play: Play, home: Home) -> None:
    assert play(games=1, ais="random").success
    before = (home.selfplay / "ringrift_dagster_hex8_2p_1.db").read_bytes()

    result = play(games=1, ais="heuristic")

    assert "was made with ais random, not heuristic" in failure(result)
    assert "each seed has a database of its own" in failure(result)
    assert (home.selfplay / "ringrift_dagster_hex8_2p_1.db").read_bytes() == before


def test_a_game_that_the_gate_rejects_fails_the_check(play: Play, home: Home) -> None:
    assert play(games=2).success
    with closing(sqlite3.connect(home.selfplay / "ringrift_dagster_hex8_2p_1.db")) as connection, connection:
        connection.execute("UPDATE games SET winner = 3 - winner WHERE rowid = 2")

    complete = checks(play(games=2))["complete"]

    assert not complete.passed
    assert complete.description == "1 of 2 games are missing or changed, 1 were rejected by the gate"
    assert "result_mismatch" in str(complete.metadata["rejected"].value)


def test_a_recorded_digest_that_the_seed_does_not_give_fails_the_check(play: Play, home: Home) -> None:
    assert play(games=2).success
    with closing(sqlite3.connect(home.selfplay / "ringrift_dagster_hex8_2p_1.db")) as connection, connection:
        connection.execute("UPDATE games SET metadata_json = json_set(metadata_json, '$.game_digest', 'abc') WHERE rowid = 1")

    again = checks(play(games=2))["same_seed_same_digests"]

    assert not again.passed
    assert again.description == "played differently: game 0"
    assert "| 0 | `abc` |" in str(again.metadata["played again"].value)


def test_nothing_plays_by_itself(location: dg.Definitions) -> None:
    key = dg.AssetKey(NAME)
    node = location.resolve_asset_graph().get(key)
    assert node.automation_condition is None
    playing = {job.name for job in location.resolve_all_job_defs() if key in job.asset_layer.selected_asset_keys}
    assert playing - {"__ASSET_JOB"} == {"selfplay_job"}
    started = {target.job_name for sensor in location.sensors or [] for target in sensor.targets}
    started |= {schedule.job_name for schedule in location.schedules or [] if isinstance(schedule, dg.ScheduleDefinition)}
    assert "training_data_job" in started
    assert "selfplay_job" not in started


def test_it_is_the_first_step_of_the_lineage(location: dg.Definitions) -> None:
    graph = location.resolve_asset_graph()
    assert graph.get(dg.AssetKey("selfplay_databases")).parent_keys == {dg.AssetKey(NAME)}
    assert not graph.get(dg.AssetKey(NAME)).parent_keys

"""`ringrift-data ai …`, and what `verify` says of the AIs of games."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ringrift_dagster.cli.main import run

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ringrift_data(capfd: pytest.CaptureFixture[str]) -> Call:
    """Runs a command in this process; gives (exit status, stdout, stderr)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        status = run([str(argument) for argument in arguments])
        return int(status), *capfd.readouterr()

    return call


def test_list_has_every_type_and_alias(ringrift_data: Call) -> None:
    status, out, err = ringrift_data("ai", "list", "--json")
    shown = json.loads(out)
    assert (status, err, len(shown["types"])) == (0, "", 26)
    by_name = {entry["name"]: entry for entry in shown["types"]}
    assert by_name["mcts"]["playable"]
    assert by_name["mcts"]["difficulties"]["registry"] == [7, 8]
    assert by_name["descent"]["aliases"][:2] == ["descent_nn", "nn_descent"]
    assert "descent_best_vs_pool" in {alias["name"] for alias in shown["aliases"]}


def test_list_reads_as_tables(ringrift_data: Call) -> None:
    status, out, _ = ringrift_data("ai", "list")
    assert status == 0
    assert "ig_gmo" in out
    assert "Names that are no AI types" in out


def test_show_tells_all_about_a_type(ringrift_data: Call) -> None:
    status, out, _ = ringrift_data("ai", "show", "IG-GMO", "--json")
    shown = json.loads(out)
    assert status == 0
    assert (shown["kind"], shown["name"], shown["status"]) == ("type", "ig_gmo", "archived")
    assert {(rung["ladder"], rung["difficulty"], rung["switch"]) for rung in shown["rungs"]} == {
        ("factory", 14, None),
        ("factory", 3, "RINGRIFT_USE_IG_GMO"),
    }
    assert "removal announced" in ringrift_data("ai", "show", "ig_gmo")[1]


@pytest.mark.parametrize(
    ("name", "kind", "line"),
    [
        ("descent_nn", "alias", "descent_nn is no AI type: descent"),
        ("mcts_100", "alias", "simulations 100"),
        ("random-only", "engine mode", "random-only is an engine mode: plays random"),
        ("diverse", "engine mode", "plays types that vary"),
    ],
)
def test_show_knows_names_that_are_no_types(ringrift_data: Call, name: str, kind: str, line: str) -> None:
    assert json.loads(ringrift_data("ai", "show", name, "--json")[1])["kind"] == kind
    status, out, err = ringrift_data("ai", "show", name)
    assert (status, err) == (0, "")
    assert line in out


@pytest.mark.parametrize("name", ["alphazero", "", "mcts\n\x1b[2J"])
def test_show_of_an_unknown_name_is_one_line(ringrift_data: Call, name: str) -> None:
    status, out, err = ringrift_data("ai", "show", name)
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert "ringrift-data ai list" in err


def test_check_lists_the_contradictions_and_is_content(ringrift_data: Call) -> None:
    status, out, err = ringrift_data("ai", "check", "--json")
    shown = json.loads(out)
    assert (status, err, shown["consistent"], shown["problems"]) == (0, "", True, [])
    assert len(shown["contradictions"]) == 79
    assert set(shown["contradictions"][0]) == {"code", "subject", "detail"}
    assert "ladders_name_different_types" in ringrift_data("ai", "check")[1]


def test_check_of_an_inconsistent_registry_exits_with_1(ringrift_data: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringrift_dagster.ai.ladders.KNOWN", {})
    status, out, _ = ringrift_data("ai", "check", "--json")
    shown = json.loads(out)
    assert (status, shown["consistent"], len(shown["problems"])) == (1, False, 79)


def test_verify_counts_and_lists_findings(ringrift_data: Call, recorded: Callable[[str], Path]) -> None:
    database = recorded("canonical_square8_4p")
    status, out, _ = ringrift_data("verify", database, "--json")
    shown = json.loads(out)[0]["ai_findings"]
    assert status == 0, "no exit status depends on findings"
    assert shown["counts"] == {"ai_outside_capabilities": 5}
    assert shown["not_listed"] == 0
    assert set(shown["findings"][0]) == {"game_id", "code", "player", "detail"}
    assert shown["findings"][0]["detail"] == "minimax plays square8, square19 with 2 players, not square8_4p"
    assert "ai_outside_capabilities" in ringrift_data("verify", database)[1]


def test_verify_of_an_unreadable_database_has_no_findings(ringrift_data: Call) -> None:
    _, out, _ = ringrift_data("verify", "/nowhere/at_all.db", "--json")
    assert json.loads(out)[0]["ai_findings"] == {"games": 0, "counts": {}, "findings": [], "not_listed": 0}

"""`ringrift-data rules perft`: counts from the start, from moves in a file and from recorded games; and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ringrift_dagster.cli.main import run
from ringrift_dagster.games.database import GameDatabase

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def perft(capfd: pytest.CaptureFixture[str]) -> Call:
    """Runs `ringrift-data rules perft` in this process; gives (exit status, stdout, stderr)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        status = run(["rules", "perft", *map(str, arguments)])
        out, err = capfd.readouterr()
        return int(status), out, err

    return call


def test_counts_from_where_games_of_a_config_begin(perft: Call) -> None:
    status, out, err = perft("--config", "square8_2p", "--depth", 4)
    assert (status, err) == (0, "")
    assert [line.split() for line in out.splitlines()[1:5]] == [["1", "192"], ["2", "3,192"], ["3", "3,192"], ["4", "3,192"]]
    assert out.splitlines()[-1].startswith("square8_2p, 0 moves played: 9,768 positions in ")


def test_json_has_the_counts_or_every_move_with_its_own(perft: Call) -> None:
    shown = json.loads(perft("--config", "hex8_4p", "--depth", 2, "--json")[1])
    assert (shown["config"], shown["after"], shown["depth"], shown["counts"]) == ("hex8_4p", 0, 2, [183, 2430])
    divided = json.loads(perft("--config", "hex8_4p", "--depth", 2, "--divide", "--json")[1])
    assert (divided["leaves"], len(divided["moves"])) == (2430, 183)
    first = divided["moves"][0]
    assert (first["move"]["type"], first["move"]["placementCount"], first["leaves"]) == ("place_ring", 1, 16)


def test_divide_names_every_move(perft: Call) -> None:
    status, out, _ = perft("--config", "square8_2p", "--depth", 1, "--divide")
    assert status == 0
    assert "place_ring at 0,0 rings 1" in out
    assert out.count("place_ring at") == 192


def test_the_swap_rule_adds_a_move(perft: Call, tmp_path: Path) -> None:
    moves = tmp_path / "moves.json"
    turn = [
        {"type": "place_ring", "player": 1, "to": {"x": 0, "y": 0}, "placementCount": 1},
        {"type": "move_stack", "player": 1, "from": {"x": 0, "y": 0}, "to": {"x": 0, "y": 1}},
        {"type": "no_line_action", "player": 1, "to": {"x": 0, "y": 0}},
        {"type": "no_territory_action", "player": 1, "to": {"x": 0, "y": 0}},
    ]
    moves.write_text(json.dumps({"moves": turn}))
    options = ("--config", "square8_2p", "--depth", 1, "--moves", moves, "--json")
    plain, swapped = (json.loads(perft(*options, *more)[1]) for more in ((), ("--swap-rule",)))
    assert swapped["counts"][0] == plain["counts"][0] + 1
    moves.write_text(json.dumps(turn))
    assert json.loads(perft(*options, "--after", 2)[1])["counts"] == [1]


def test_a_recorded_game_tells_config_rules_and_moves(perft: Call, recorded: Callable[[str], Path]) -> None:
    path = recorded("hex8_2p_swap")
    with GameDatabase(path) as database:
        game_id = next(game.game_id for game in database.games())
    status, out, err = perft("--db", path, "--game", game_id, "--after", 4, "--depth", 1, "--divide")
    assert (status, err) == (0, "")
    assert "swap_sides" in out
    ended = json.loads(perft("--db", path, "--game", game_id, "--depth", 2, "--json")[1])
    assert ended["counts"] == [0, 0]


def _one_line(answer: tuple[int, str, str]) -> str:
    status, out, err = answer
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    return err


def test_wrong_usage_is_refused_in_one_line(perft: Call, tmp_path: Path, recorded: Callable[[str], Path]) -> None:
    path = recorded("square8_2p_full")
    assert "--config is needed: one of square8_2p" in _one_line(perft("--depth", 1))
    assert "13 is not in the range" in _one_line(perft("--config", "square8_2p", "--depth", 13))
    assert "0 is not in the range" in _one_line(perft("--config", "square8_2p", "--depth", 0))
    assert "square9_2p" in _one_line(perft("--config", "square9_2p", "--depth", 1))
    assert "--game needs --db" in _one_line(perft("--config", "square8_2p", "--depth", 1, "--game", "x"))
    assert "--after needs --db or --moves" in _one_line(perft("--config", "square8_2p", "--depth", 1, "--after", 3))
    assert "two players" in _one_line(perft("--config", "square8_3p", "--depth", 1, "--swap-rule"))
    assert "leave out --moves" in _one_line(perft("--db", path, "--depth", 1, "--moves", tmp_path / "x"))
    assert "of square8_2p, not hex8_2p" in _one_line(perft("--db", path, "--config", "hex8_2p", "--depth", 1))
    assert "--after 100000: there are" in _one_line(perft("--db", path, "--after", 100000, "--depth", 1))


def test_unreadable_input_is_refused_in_one_line(perft: Call, tmp_path: Path, recorded: Callable[[str], Path]) -> None:
    path = tmp_path / "input"
    start = ("--config", "square8_2p", "--depth", 1, "--moves", path)
    assert "no such" in _one_line(perft(*start)).lower()
    for text, problem in (
        ("{", "no JSON"),
        ("{}", "no list of move records"),
        ("[1]", "the moves cannot be read: move 0"),
        ('[{"type": "no_placement_action", "player": 1}]', "move 0 is illegal: the player has an action"),
        ('[{"type": "place_ring", "player": 2, "to": {"x": 0, "y": 0}}]', "move 0 is illegal: it is another player's turn"),
    ):
        path.write_text(text)
        assert problem in _one_line(perft(*start))
    assert "input" in _one_line(perft("--db", path, "--depth", 1))
    database = recorded("canonical_square8_2p")
    with GameDatabase(database) as games:
        newest = next(games.games()).game_id
    several = _one_line(perft("--db", database, "--depth", 1))
    assert "--game has to say which game" in several
    assert newest in several
    assert "no game 'x'" in _one_line(perft("--db", database, "--game", "x", "--depth", 1))

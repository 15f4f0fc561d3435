"""Policies that play with a model: legal and repeatable on every board, and nothing that does not belong is loaded."""

from __future__ import annotations

import hashlib
import lzma
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from ringrift_dagster.ai.playing import Arena
from ringrift_dagster.ai.policies import POLICIES
from ringrift_dagster.ai.policies.interface import Choice, HistoryPolicy, LegalMoves
from ringrift_dagster.ai.registry import parse_spec
from ringrift_dagster.ai.seeds import Generator
from ringrift_dagster.datasets.labels import policy_indices
from ringrift_dagster.games.config import Config, parse_config
from ringrift_dagster.games.geometry import topology
from ringrift_dagster.games.moves import COLUMNS, MoveType, PackedMoves
from ringrift_dagster.games.position import ACTIVE, Position, blank_position
from ringrift_dagster.games.rules.listing import buffers, list_moves
from ringrift_dagster.games.rules.stacks import copy_position
from ringrift_dagster.games.rules.turns import play
from ringrift_dagster.models.evaluation.matches import Match, UnknownParticipant, make_policy, play_block, registry_participant
from ringrift_dagster.models.evaluation.records import Participant, Series
from ringrift_dagster.models.judge import Judgement, shares
from ringrift_dagster.models.playing import UnplayableModel, load_network, model_policy
from ringrift_dagster.models.search import NetworkSearch
from ringrift_dagster.models.training.network import ReferenceNetwork, Sizes
from ringrift_dagster.models.training.trainer import save
from tests.ai.policies.playing import snapshot

DATA = Path(__file__).parents[1] / "data"
MOST_DECISIONS = 40
"""After which the games of these tests stop: long enough for every phase but the last."""

Models = Callable[[str], Path]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """The checkpoint of an untrained network, by config."""
    root = tmp_path_factory.mktemp("models")

    def model(key: str) -> Path:
        path = root / f"{key}.pth"
        if not path.exists():
            torch.manual_seed(1)
            save(ReferenceNetwork(parse_config(key), Sizes(4, 1)), path, "1" * 64, {})
        return path

    return model


class Enough(Exception):
    """A game that went on long enough."""


class Watched:
    """A policy that passes on what another chooses, and what it chose in a list."""

    def __init__(self, policy: HistoryPolicy) -> None:
        self.policy = policy
        self.history = policy.history
        self.choices: list[list[int]] = []

    def __call__(self, position: Position, moves: LegalMoves, generator: Generator, earlier: Sequence[Position] = ()) -> Choice:
        before = snapshot(position)
        choice = self.policy(position, moves, generator, earlier)
        assert snapshot(position) == before
        assert 0 <= choice.index < len(moves.rows)
        self.choices.append(moves.rows[choice.index].tolist())
        if len(self.choices) == MOST_DECISIONS:
            raise Enough
        return choice


def choices(config: Config, path: Path, name: str, seed: str) -> list[list[int]]:
    """The decisions of a game that the model in a file plays against itself."""
    watched = Watched(model_policy(name, config, path))
    with pytest.raises(Enough):
        Arena(config).play([watched] * config.players, ("tests", seed))
    return watched.choices


@pytest.mark.parametrize("name", ["policy_only", "mcts:3"])
@pytest.mark.parametrize("key", ["square8_2p", "square19_2p", "hex8_4p", "hexagonal_3p"])
def test_it_plays_legally_and_repeatably_on_every_board(key: str, name: str, models: Models) -> None:
    config = parse_config(key)
    played = choices(config, models(key), name, "one")
    assert played == choices(config, models(key), name, "one")
    if name == "policy_only":
        assert played != choices(config, models(key), name, "other")


def test_a_search_visits_as_often_as_its_budget_says(models: Models) -> None:
    config = parse_config("square8_3p")
    policy = model_policy("mcts:20", config, models("square8_3p"))
    counted: list[int] = []

    def choose(position: Position, moves: LegalMoves, generator: Generator) -> Choice:
        choice = policy(position, moves, generator)
        assert choice.visits is not None
        assert choice.visits[choice.index] == choice.visits.max()
        counted.append(int(choice.visits.sum()))
        if len(counted) == 5:
            raise Enough
        return choice

    with pytest.raises(Enough):
        Arena(config).play([choose] * 3, ("tests", "visits"))
    assert counted == [20] * 5


class Fixed:
    """A judge that is of no opinion about moves and thinks that all players are as good."""

    def __call__(self, position: Position, earlier: Sequence[Position]) -> Judgement:
        return Judgement(np.zeros(7000, np.float32), np.zeros(int(position.players), np.float32))


def wins(config: Config, position: Position, moves: LegalMoves, index: int) -> bool:
    """Whether a move, with the forced moves that follow it, ends the game in favour of who makes it."""
    tables, after, (rows, cells) = topology(config.board), blank_position(), buffers(config.board)
    copy_position(position, after)
    play(tables, after, moves.rows[index], moves.cells)
    while list_moves(tables, after, rows, cells) == 1:
        play(tables, after, rows[0], cells)
    return after.status != ACTIVE and after.winner == position.player


def test_a_search_finds_a_move_that_wins_at_once() -> None:
    config = parse_config("square8_2p")
    search, chooser = NetworkSearch(config, Fixed(), 300), POLICIES["random"](config, None)  # type: ignore[arg-type]
    checked: list[bool] = []

    def choose(position: Position, moves: LegalMoves, generator: Generator) -> Choice:
        if position.eliminated[position.player] * 2 > position.victory_threshold and len(moves.rows) <= 30:
            winning = [index for index in range(len(moves.rows)) if wins(config, position, moves, index)]
            if 0 < len(winning) < len(moves.rows):
                choice = search(position, moves, generator)
                checked.append(choice.index in winning)
                return choice
        return chooser(position, moves, generator)

    for number in range(10):
        Arena(config).play([choose] * 2, ("tests", "win", number))
    assert len(checked) >= 3
    assert all(checked)


def test_a_single_legal_move_is_chosen_without_the_network(models: Models) -> None:
    config = parse_config("square8_2p")
    policy = model_policy("policy_only", config, models("square8_2p"))
    rows, cells = np.zeros((1, len(COLUMNS)), np.int64), np.zeros(0, np.int64)
    state = np.array([7], np.uint64)
    assert policy(None, LegalMoves(rows, cells), state) == Choice(0)
    assert state[0] == 7


@pytest.mark.parametrize("key", ["square8_3p", "hex8_2p", "square19_2p"])
def test_a_model_of_another_config_is_refused(key: str, models: Models) -> None:
    with pytest.raises(UnplayableModel, match=rf"square8_2p\.pth is a model of square8_2p, not of {key}"):
        load_network(parse_config(key), models("square8_2p"))


def test_a_file_that_is_another_model_is_refused(models: Models) -> None:
    with pytest.raises(UnplayableModel, match=r"is model [0-9a-f]{12}, not 000000000000"):
        load_network(parse_config("square8_2p"), models("square8_2p"), "0" * 64)


def test_a_model_that_another_trainer_made_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(lzma.decompress((DATA / "models" / "cnn_v2_square8_2p.pth.xz").read_bytes()))
    with pytest.raises(UnplayableModel, match=r"is a RingRiftCNN_v2 v2\.0\.0; only ReferenceNetwork reference-v1 plays here"):
        load_network(parse_config("square8_2p"), path)


def test_a_hostile_file_is_refused_before_torch_sees_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch was given the file"))
    path = tmp_path / "model.pth"
    path.write_bytes(b"\x80\x02cos\nsystem\n(U\x04trueR.")
    with pytest.raises(UnplayableModel, match=r"is refused: [a-z_]+: "):
        load_network(parse_config("square8_2p"), path)


def test_weights_that_do_not_fit_the_network_are_refused(tmp_path: Path) -> None:
    network = ReferenceNetwork(parse_config("square8_2p"), Sizes(4, 1))
    network.bn1 = torch.nn.BatchNorm2d(5)
    save(network, tmp_path / "model.pth", "1" * 64, {})
    with pytest.raises(UnplayableModel, match=r"cannot be loaded: RuntimeError: .*size mismatch"):
        load_network(parse_config("square8_2p"), tmp_path / "model.pth")


@pytest.mark.parametrize("name", ["heuristic", "mcts", "mcts:0", "mcts:x", "mcts:10000", "", "policy_only:3"])
def test_an_ai_that_plays_without_a_model_is_refused(name: str, models: Models) -> None:
    with pytest.raises(UnplayableModel, match="does not play with a model: policy_only and mcts:N"):
        model_policy(name, parse_config("square8_2p"), models("square8_2p"))


def row(kind: MoveType, **columns: int) -> list[int]:
    return [{"type": int(kind), "player": 1, **columns}.get(name, 0) for name in COLUMNS]


def test_moves_that_share_an_entry_of_the_policy_share_what_it_is_worth() -> None:
    config = parse_config("hex8_2p")
    rows = np.array(
        [
            row(MoveType.PLACE_RING, to=3, count=1),
            row(MoveType.ELIMINATE_RINGS_FROM_STACK, to=4),
            row(MoveType.ELIMINATE_RINGS_FROM_STACK, to=5),
            row(MoveType.SWAP_SIDES),
        ]
    )
    worth = shares(config, LegalMoves(rows, np.zeros(0, np.int64)), np.zeros(4500, np.float32), 1.0)
    assert worth.tolist() == [1.0, 0.5, 0.5, 0.0]
    assert shares(config, LegalMoves(rows[3:], np.zeros(0, np.int64)), np.zeros(4500, np.float32), 1.0).tolist() == [1.0]


def test_the_likeliest_move_is_worth_most() -> None:
    config = parse_config("square8_2p")
    rows = np.array([row(MoveType.PLACE_RING, to=cell, count=1) for cell in range(4)])
    moves, logits = LegalMoves(rows, np.zeros(0, np.int64)), np.zeros(7000, np.float32)
    logits[policy_indices(config, PackedMoves(*moves))[2]] = 1.0
    worth = shares(config, moves, logits, 0.1)
    assert worth.argmax() == 2
    assert np.isclose(worth.min() / worth.max(), np.exp(-10))


def match(path: Path, key: str = "square8_2p", sha256: str | None = None) -> Match:
    config = parse_config(key)
    sha256 = sha256 or hashlib.sha256(path.read_bytes()).hexdigest()
    opponent = registry_participant(parse_spec("random", config))
    return Match(Series(key, Participant("policy_only", "1", sha256), opponent), ((sha256, path),))


def test_a_model_plays_blocks_against_an_ai_of_the_registry(models: Models) -> None:
    block = play_block(match(models("square8_2p")), (0, 0))
    again = play_block(match(models("square8_2p")), (0, 0))
    assert [game.seat for game in block.games] == [1, 2]
    assert all(game.result in ("won", "lost", "drawn") and game.digest for game in block.games), block.games
    assert [game.digest for game in block.games] == [game.digest for game in again.games]


def test_a_model_that_cannot_play_is_an_unknown_participant(models: Models) -> None:
    config = parse_config("square8_2p")
    given = match(models("square8_2p"), sha256="0" * 64)
    with pytest.raises(UnknownParticipant, match="not 000000000000"):
        make_policy(given.series.candidate, config, dict(given.files))

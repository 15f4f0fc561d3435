"""Playing one game: what policies are shown of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from ringrift_dagster.ai.playing import Arena
from ringrift_dagster.ai.policies import POLICIES
from ringrift_dagster.ai.policies.interface import Choice, HistoryPolicy, LegalMoves
from ringrift_dagster.ai.seeds import Generator
from ringrift_dagster.datasets.features import GLOBAL_FEATURES, GameEncoder, PositionEncoder, encoding
from ringrift_dagster.games.config import Config, parse_config
from ringrift_dagster.games.position import Position, empty_position


class Recorder:
    """A policy that chooses as `random` does, and encodes what it is shown as the exporter does."""

    def __init__(self, config: Config, history: int = 3) -> None:
        self.history = history
        self.shown: list[bytes] = []
        self.earlier: list[int] = []
        self._width = encoding(config).sample_bytes // 4
        self._encoder = PositionEncoder(config)
        self._chooser = POLICIES["random"](config, None)

    def __call__(self, position: Position, moves: LegalMoves, generator: Generator, earlier: Sequence[Position] = ()) -> Choice:
        features, vector = np.full(self._width, 9, np.float32), np.full(GLOBAL_FEATURES, 9, np.float32)
        self._encoder.encode_into(position, earlier, features, vector)
        self.shown.append(features.tobytes() + vector.tobytes())
        self.earlier.append(len(earlier))
        return self._chooser(position, moves, generator)


@pytest.mark.parametrize("key", ["square8_2p", "hex8_3p"])
def test_a_policy_is_shown_in_play_what_the_exporter_makes_of_the_game(key: str) -> None:
    config = parse_config(key)
    recorder = Recorder(config)
    played = Arena(config).play([recorder] * config.players, ("tests", key))
    count, spec = len(played.moves), encoding(config)
    features, vectors = np.empty((count, 4 * spec.frame), np.float32), np.empty((count, GLOBAL_FEATURES), np.float32)
    phases = np.empty(count, np.uint8)
    GameEncoder(config, empty_position(config), played.moves).encode_into(features, vectors, phases.copy(), phases)
    exported = iter([one.tobytes() + other.tobytes() for one, other in zip(features, vectors, strict=True)])
    assert len(recorder.shown) > 20
    assert all(sample in exported for sample in recorder.shown), "in the order of the game"


def test_a_policy_is_shown_no_more_than_it_asks_for() -> None:
    config = parse_config("square8_2p")
    one, three = Recorder(config, 1), Recorder(config, 3)
    Arena(config).play([one, three], ("tests", "history"))
    assert one.earlier[0] == 0
    assert set(one.earlier[1:]) == {1}
    assert set(three.earlier) == {3}, "the other player placed a ring and moved it, and had no line to process"


def test_a_game_does_not_depend_on_what_policies_are_shown() -> None:
    config = parse_config("square8_2p")
    plain = POLICIES["random"](config, None)
    assert not isinstance(plain, HistoryPolicy)
    games = [Arena(config).play(policies, ("tests", "same")) for policies in ([plain] * 2, [Recorder(config), plain])]
    assert np.array_equal(games[0].moves.rows, games[1].moves.rows)

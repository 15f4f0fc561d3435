"""What files tell about themselves: right where they can, quiet where they cannot, never an exception."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringrift_dagster.games.database import file_sha256
from ringrift_dagster.manifest.inventory import UNTRACKED_REASONS, FoundItem, ItemType, Soundness
from ringrift_dagster.manifest.sources.probe import Facts, epoch_seconds, holds_all_games, probe

DAMAGED = Path(__file__).parents[1] / "data" / "damaged"


def fits_the_contract(facts: Facts) -> bool:
    """Whether an item with these facts can be told."""
    if facts.problem:
        return facts.problem[0] in UNTRACKED_REASONS
    item = FoundItem.model_validate({**json.loads(facts.to_json()), "path": "x", "sha256": "0" * 64, "size": 1, "type": "NPZ"})
    return item.soundness == facts.soundness


def test_a_game_database(recorded: Callable[[str], Path]) -> None:
    facts = probe(recorded("canonical_hex8_2p"), ItemType.GAME_DB, "consolidated/games/whatever.db")
    assert (facts.config, facts.games, facts.soundness) == ("hex8_2p", 20, Soundness.SOUND)
    assert facts.quality is not None
    assert 0.3 < facts.quality <= 1
    assert facts.newest_game is not None
    assert 1.7e9 < facts.newest_game < time.time() + 3600


def test_unscored_games_have_no_quality(recorded: Callable[[str], Path], tmp_path: Path) -> None:
    path = Path(shutil.copy(recorded("square8_2p_full"), tmp_path / "games.db"))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE games SET quality_score = NULL")
    assert probe(path, ItemType.GAME_DB, "games.db").quality is None


def test_a_database_of_several_configs_has_none(recorded: Callable[[str], Path], tmp_path: Path) -> None:
    path = Path(shutil.copy(recorded("canonical_square8_2p"), tmp_path / "games.db"))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE games SET num_players = 3 WHERE game_id = (SELECT MIN(game_id) FROM games)")
    facts = probe(path, ItemType.GAME_DB, "canonical_square8_2p.db")
    assert (facts.config, facts.problem) == (None, None)
    assert facts.counts["square8_3p"] == 1
    assert "square8_3p: 1" in facts.provenance["configs"]


def test_an_empty_database_is_of_the_config_its_name_tells(damaged: Callable[[str], Path]) -> None:
    named = probe(damaged("empty"), ItemType.GAME_DB, "data/games/hex8_4p.db")
    assert (named.config, named.games) == ("hex8_4p", 0)
    nameless = probe(damaged("empty"), ItemType.GAME_DB, "data/games/games.db")
    assert nameless.problem is not None
    assert nameless.problem[0] == "unknown_config"


def test_a_damaged_database_is_unsound_where_its_config_is_known(damaged: Callable[[str], Path]) -> None:
    for name in ("truncated_midfile", "corrupt_page", "not_a_db", "truncated_header"):
        facts = probe(damaged(name), ItemType.GAME_DB, f"{name}_hex8_2p.db")
        assert (facts.soundness, facts.config) == (Soundness.UNSOUND, "hex8_2p")
        assert facts.reason
        nameless = probe(damaged(name), ItemType.GAME_DB, "x.db")
        assert nameless.problem is not None
        assert nameless.problem[0] == "unreadable"


def test_games_from_the_future_are_not_believed(recorded: Callable[[str], Path], tmp_path: Path) -> None:
    path = Path(shutil.copy(recorded("square8_2p_full"), tmp_path / "games.db"))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE games SET completed_at = '2999-01-01T00:00:00'")
    facts = probe(path, ItemType.GAME_DB, "games.db")
    assert facts.newest_game is None
    assert facts.provenance["newest_game"].startswith("in the future: 2999-01-01")


def test_a_byte_that_is_no_text_spoils_one_game_and_no_database(recorded: Callable[[str], Path], tmp_path: Path) -> None:
    path = tmp_path / "square8_2p.db"
    shutil.copyfile(recorded("canonical_square8_2p"), path)
    before = probe(path, ItemType.GAME_DB, "square8_2p.db")
    with closing(sqlite3.connect(path)) as connection, connection:
        game = "SELECT game_id FROM games LIMIT 1"
        columns = [
            row[1] for row in connection.execute("PRAGMA table_info(games)") if row[1] in ("engine_mode", "source", "completed_at")
        ]
        for column in columns:
            connection.execute(f"UPDATE games SET {column} = CAST(x'61ff62' AS TEXT) WHERE game_id = ({game})")
    assert columns
    facts = probe(path, ItemType.GAME_DB, "square8_2p.db")
    fits_the_contract(facts)
    assert (facts.soundness, facts.config, facts.games) == (Soundness.SOUND, before.config, before.games)


def test_times_are_utc_unless_they_say_otherwise() -> None:
    assert epoch_seconds("1970-01-02T00:00:00") == 86400
    assert epoch_seconds("1970-01-02 00:00:00Z") == 86400
    assert epoch_seconds("1970-01-02T02:00:00+02:00") == 86400
    assert [epoch_seconds(text) for text in (None, "", "yesterday", "1969-01-01T00:00:00", "9999-99-99")] == [None] * 5


def test_training_sets() -> None:
    sound = probe(DAMAGED / "base_ok.npz", ItemType.NPZ, "data/training/any.npz", sha256=file_sha256(DAMAGED / "base_ok.npz"))
    assert (sound.soundness, sound.config, sound.samples) == (Soundness.SOUND, "square8_3p", 200)
    assert sound.quality is not None
    assert sound.newest_game is not None
    for path in sorted(DAMAGED.glob("*.npz")):
        facts = probe(path, ItemType.NPZ, f"{path.stem}_square8_2p.npz")
        assert fits_the_contract(facts)
        assert (facts.soundness == Soundness.UNSOUND) == (path.stem != "base_ok")
        assert facts.reason or path.stem == "base_ok"


def test_a_training_set_that_changes_meanwhile_is_in_flux() -> None:
    assert probe(DAMAGED / "base_ok.npz", ItemType.NPZ, "x.npz", sha256="0" * 64).problem == (
        "in_flux",
        "changed while it was read",
    )


def parquet(folder: Path, part: str, columns: dict[str, list[object]], told: dict[str, str]) -> Path:
    """A file named by its hash, as the canonical store names its files."""
    staged = folder / "staged"
    pq.write_table(pa.table(columns).replace_schema_metadata(told), staged)
    return staged.rename(folder / f"{part}-000000-{file_sha256(staged)[:16]}.parquet")


def test_canonical_games(tmp_path: Path) -> None:
    told = {"ringrift.config": "square8_2p", "ringrift.rules_version": "v1"}
    moves = parquet(tmp_path, "moves", {"digest": ["a", "a", "b"], "move_number": [0, 1, 0]}, told)
    times = {"created_at": ["2026-01-01T00:00:00", "2026-03-01T00:00:00"], "completed_at": ["2026-01-02T00:00:00", None]}
    games = parquet(
        tmp_path, "games", {"digest": ["a", "b"], "winner": [1, 2], **times}, told | {"ringrift.moves_file": moves.name}
    )
    of_games = probe(games, ItemType.CANONICAL_GAMES, games.name, sha256=file_sha256(games))
    of_moves = probe(moves, ItemType.CANONICAL_GAMES, moves.name, sha256=file_sha256(moves))
    assert (of_games.config, of_games.games, of_games.soundness) == ("square8_2p", 2, Soundness.SOUND)
    assert of_games.newest_game == epoch_seconds("2026-03-01T00:00:00")
    assert of_games.provenance == {"part": "games", "rules_version": "v1", "moves_file": moves.name}
    assert (of_moves.config, of_moves.games, of_moves.soundness) == ("square8_2p", None, Soundness.SOUND)
    lying = probe(games, ItemType.CANONICAL_GAMES, games.name, sha256="0" * 64)
    assert lying.soundness == Soundness.UNSOUND
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(games.read_bytes()[:-7])
    assert probe(cut, ItemType.CANONICAL_GAMES, "canonical/square8_2p/cut.parquet").soundness == Soundness.UNSOUND


def torch_file(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_models_and_their_sidecars(tmp_path: Path) -> None:
    model = torch_file(tmp_path / "canonical_hex8_2p.pth", {"archive/data.pkl": b"\x80\x02.", "archive/data/0": bytes(100)})
    plain = probe(model, ItemType.MODEL, "models/canonical_hex8_2p.pth")
    assert (plain.config, plain.soundness, plain.elo) == ("hex8_2p", Soundness.SOUND, None)
    sidecar = tmp_path / "canonical_hex8_2p.meta.json"
    for told, elo in (
        ({"elo": 1650.5}, 1650.5),
        ({"elo_rating": 1700, "model_id": "m7"}, 1700.0),
        ({"elo": "1650"}, None),
        ({"elo": 1e300}, None),
        ({"elo": True}, None),
        ([1], None),
    ):
        sidecar.write_text(json.dumps(told))
        assert probe(model, ItemType.MODEL, "models/canonical_hex8_2p.pth").elo == elo
    for text in ("{", '{"elo": NaN}', '{"elo": Infinity}', "[" * 100_000, " " * (2 << 20)):
        sidecar.write_text(text)
        assert probe(model, ItemType.MODEL, "models/canonical_hex8_2p.pth").elo is None


def test_what_is_no_model(tmp_path: Path) -> None:
    whole = torch_file(tmp_path / "hex8_2p.pth", {"archive/data.pkl": b"\x80\x02.", "archive/data/0": bytes(1000)}).read_bytes()
    for content, reason in (
        (b"pickle", "not_a_zip"),
        (whole[:-30], "not_a_zip"),
        (whole[500:], "not_a_zip"),
        (torch_file(tmp_path / "other.pth", {"readme": b"x"}).read_bytes(), "no_data_pkl"),
    ):
        path = tmp_path / "hex8_2p.pth"
        path.write_bytes(content)
        facts = probe(path, ItemType.CHECKPOINT, path.name)
        assert (facts.soundness, facts.reason) == (Soundness.UNSOUND, reason)
    (tmp_path / "hex8_2p.onnx").write_bytes(b"x")
    assert probe(tmp_path / "hex8_2p.onnx", ItemType.MODEL, "hex8_2p.onnx").soundness == Soundness.UNKNOWN


@pytest.mark.parametrize("kind", list(ItemType))
def test_empty_missing_and_odd_files_never_raise(kind: ItemType, tmp_path: Path) -> None:
    (tmp_path / "empty_hex8_2p").touch()
    assert probe(tmp_path / "empty_hex8_2p", kind, "empty_hex8_2p").problem == ("empty", "zero bytes")
    for name in ("missing_hex8_2p", "."):
        facts = probe(tmp_path / name, kind, "missing_hex8_2p")
        assert fits_the_contract(facts)
        assert facts.problem or facts.soundness != Soundness.SOUND


SEEDS = [
    (DAMAGED / "base_ok.npz").read_bytes(),
    b"PAR1" + bytes(64) + b"PAR1",
    b"SQLite format 3\0" + bytes(4080),
]


@pytest.mark.parametrize("kind", list(ItemType))
@settings(max_examples=40, deadline=None)
@given(
    seed=st.sampled_from(SEEDS),
    cut=st.floats(0, 1),
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6),
    tail=st.binary(max_size=40),
)
def test_damaged_content_never_raises(
    kind: ItemType, seed: bytes, cut: float, flips: list[tuple[float, int]], tail: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(seed[: int(len(seed) * cut)] + tail)
    for at, value in flips:
        if content:
            content[min(len(content) - 1, int(at * len(content)))] = value
    path = (
        tmp_path_factory.getbasetemp() / f"fuzzed_{kind}_hex8_2p{'.pth' if kind in (ItemType.MODEL, ItemType.CHECKPOINT) else ''}"
    )
    path.write_bytes(content)
    assert fits_the_contract(probe(path, kind, path.name))


def test_succession_needs_every_game(recorded: Callable[[str], Path], tmp_path: Path) -> None:
    older = recorded("canonical_square8_2p")
    newer = Path(shutil.copy(older, tmp_path / "newer.db"))
    assert holds_all_games(newer, older)
    with closing(sqlite3.connect(newer)) as connection, connection:
        connection.execute("DELETE FROM games WHERE game_id = (SELECT MIN(game_id) FROM games)")
    assert not holds_all_games(newer, older)
    assert holds_all_games(older, newer)
    (tmp_path / "garbage").write_bytes(b"x" * 5000)
    assert not holds_all_games(newer, tmp_path / "garbage")
    assert not holds_all_games(newer, tmp_path / "missing")

"""Real databases for the tests: recorded by RingRift's engine, kept compressed in `tests/data`, unpacked once a session."""

from __future__ import annotations

import lzma
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from ringrift_dagster.games.database import GameDatabase, GameRecord
from ringrift_dagster.home import Home
from ringrift_dagster.manifest.store import Store
from tests.postgres import postgres
from tests.s3_servers import Proxy, S3Server, moto_server, new_bucket, proxy_before, rclone_server

DATA = Path(__file__).parent / "data"
_NUMBERS = count(1)

# On a busy machine Hypothesis would fail a test for how long an example took.
settings.register_profile("no pace", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no pace")


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Unpack `<name>.db.xz` and return the database's path. Shared by all tests: read it, copy it, never change it."""
    root = tmp_path_factory.mktemp("databases")

    def unpack(source: Path) -> Path:
        target = root / source.parent.name / source.stem
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(lzma.decompress(source.read_bytes()))
        return target

    return unpack


@pytest.fixture(scope="session")
def recorded(unpacked: Callable[[Path], Path]) -> Callable[[str], Path]:
    """The path of a database of canonical games, by name."""
    return lambda name: unpacked(DATA / "db" / f"{name}.db.xz")


@pytest.fixture(scope="session")
def damaged(unpacked: Callable[[Path], Path]) -> Callable[[str], Path]:
    """The path of a deliberately damaged database, by name."""
    return lambda name: unpacked(DATA / "damaged" / f"{name}.db.xz")


@pytest.fixture(scope="session")
def sample(unpacked: Callable[[Path], Path]) -> Callable[[str], Path]:
    """The path of either kind, by folder and name: `db/canonical_hex8_2p`, `damaged/winner_flipped`."""
    return lambda name: unpacked(DATA / f"{name}.db.xz")


@pytest.fixture(scope="session")
def one_game(recorded: Callable[[str], Path]) -> GameRecord:
    """A short game with many kinds of moves."""
    with GameDatabase(recorded("canonical_square8_2p")) as database:
        return min(database.games(), key=lambda record: len(record.moves))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """An empty home that the environment names."""
    monkeypatch.setenv("RINGRIFT_DATA_HOME", str(tmp_path / "home"))
    return Home.from_env()


@pytest.fixture
def give(home: Home, unpacked: Callable[[Path], Path]) -> Callable[..., Path]:
    """Put a copy of a database, e.g. `db/canonical_hex8_2p`, where the home discovers it; returns the copy."""

    def copy(name: str, as_name: str | None = None) -> Path:
        source = unpacked(DATA / f"{name}.db.xz")
        home.selfplay.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(source, home.selfplay / (as_name or source.name)))

    return copy


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a running PostgreSQL, without a database."""
    with postgres() as url:
        yield url


@pytest.fixture(scope="session")
def rclone_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An S3 server that checks signatures and keeps files."""
    with rclone_server(tmp_path_factory.mktemp("rclone") / "server") as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
    """An S3 server that knows storage classes."""
    with moto_server() as endpoint:
        yield endpoint


@pytest.fixture
def s3_rclone(rclone_endpoint: str) -> S3Server:
    """An empty bucket of rclone's server."""
    return new_bucket(rclone_endpoint)


@pytest.fixture
def s3_moto(moto_endpoint: str) -> S3Server:
    """An empty bucket of moto's server."""
    return new_bucket(moto_endpoint)


@pytest.fixture
def proxied() -> Iterator[Callable[[S3Server], Proxy]]:
    """Put a proxy before an S3 server."""
    with ExitStack() as stack:
        yield lambda server: stack.enter_context(proxy_before(server.endpoint))


@pytest.fixture(params=["sqlite", "postgresql"])
def manifest_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database for a manifest, once of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'manifest.db'}"
    server = request.getfixturevalue("postgres_server")
    return f"{server}/{new_database(server)}"


@pytest.fixture
def store(manifest_url: str) -> Iterator[Store]:
    """An empty manifest, once in each kind of database."""
    with Store.open(manifest_url) as opened:
        yield opened


def new_database(server: str) -> str:
    """Make a database in a PostgreSQL of the tests; returns its name."""
    import psycopg

    name = f"manifest_{next(_NUMBERS)}"
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return name

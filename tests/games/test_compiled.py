"""Where machine code is kept: never that of other sources, never where others could write, and no failure of it stops anything."""

from __future__ import annotations

import json
import os
import pwd
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numba
import numpy as np
import pytest

import ringrift_dagster
from ringrift_dagster.canonical.gate import verify
from ringrift_dagster.games.geometry import TOPOLOGY
from ringrift_dagster.games.position import POSITION
from ringrift_dagster.games.rules import compiled
from ringrift_dagster.games.rules.compiled import engine

PROJECT = Path(ringrift_dagster.__file__).parents[1]
DIRECTORY = "import ringrift_dagster.games.replay, ringrift_dagster.games.rules.compiled as c; print(c._DIRECTORY)"
COMPILE = """
from ringrift_dagster.games import fingerprint as f
from ringrift_dagster.games.config import Config
from ringrift_dagster.games.geometry import topology
from ringrift_dagster.games.position import empty_position
tables, position = topology("square8"), empty_position(Config("square8", 2))
print(f.hash_text_of(f.hash_position(tables, position, f.buffer_for(tables))), sum(f.hash_position.stats.cache_misses.values()))
"""
INITIAL_HASH = "64d970e91e560723"
NOBODY = next(uid for uid in count(54321) if uid not in {entry.pw_uid for entry in pwd.getpwall()})
_CAN_READ_ALL = 1 << 2  # CAP_DAC_READ_SEARCH


@pytest.fixture
def ground() -> Iterator[Path]:
    """A directory that any user can enter (those of pytest are private)."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    for directory in (path, *(each for each in path.rglob("*") if each.is_dir() and not each.is_symlink())):
        directory.chmod(0o755)
    shutil.rmtree(path)


@pytest.fixture
def package(ground: Path) -> Path:
    """What holds a copy of the package that cannot be written to."""
    root = ground / "installed"
    copy = shutil.copytree(PROJECT / "ringrift_dagster", root / "ringrift_dagster", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "pyproject.toml", root)
    for directory in (copy, *(path for path in copy.rglob("*") if path.is_dir())):
        directory.chmod(0o555)
    return root


class Stranger:
    """Runs Python as a user without an entry, a home or any right but to read; without privileges, as this one without a home."""

    def __init__(self, package: Path, ground: Path) -> None:
        self.temporary = self.own_directory(ground / "tmp")
        self.uid = NOBODY if os.geteuid() == 0 else os.geteuid()
        self._environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(package), "TMPDIR": str(self.temporary)}
        self._before: list[str] = []
        if os.geteuid() == 0:
            self._before = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
            effective = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
            if int(effective.split()[1], 16) & _CAN_READ_ALL:  # the interpreter may lie below a private home
                self._before += ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
        else:
            self._environment["HOME"] = str(package / "ringrift_dagster")

    @staticmethod
    def own_directory(path: Path, mode: int = 0o700) -> Path:
        path.mkdir()
        path.chmod(mode)
        if os.geteuid() == 0:
            os.chown(path, NOBODY, NOBODY)
        return path

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._before, sys.executable, *arguments],
            cwd="/",
            env=self._environment | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def directory(self, **environment: str) -> tuple[str, list[str]]:
        """Where it keeps machine code, and what it says of that."""
        done = self.run("-c", DIRECTORY, **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip(), done.stderr.splitlines()


@pytest.fixture
def stranger(package: Path, ground: Path) -> Stranger:
    return Stranger(package, ground)


def _run(code: str, root: Path, **environment: str) -> str:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(root)} | environment
    return subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_changed_rules_never_meet_old_machine_code(tmp_path: Path) -> None:
    package = tmp_path / "ringrift_dagster"
    shutil.copytree(PROJECT / "ringrift_dagster", package, ignore=shutil.ignore_patterns("__pycache__"))
    for environment, place in (({}, package), ({"NUMBA_CACHE_DIR": str(tmp_path / "given")}, tmp_path / "given")):
        before = _run(DIRECTORY, tmp_path, **environment)
        assert before.startswith(str(place))
        assert _run(DIRECTORY, tmp_path, **environment) == before
        callee = package / "games" / "rules" / "stacks.py"
        callee.write_text(callee.read_text() + "\n")
        assert _run(DIRECTORY, tmp_path, **environment) != before


def test_what_computes_the_rules_has_a_name() -> None:
    code = "from ringrift_dagster.games.rules.compiled import engine; print(engine())"
    assert engine() == f"numba {numba.__version__}"
    assert _run(code, PROJECT, NUMBA_DISABLE_JIT="1").strip() == "python {}.{}".format(*sys.version_info)


@pytest.mark.parametrize("record", [POSITION, TOPOLOGY])
def test_no_field_is_hidden_by_an_attribute_of_numpys_records(record: np.dtype[np.void]) -> None:
    """Uncompiled, the attribute would be read instead of the field."""
    assert record.names is not None
    assert [name for name in record.names if hasattr(np.record, name) or hasattr(np.recarray, name)] == []


def test_without_a_home_machine_code_is_kept_in_the_data_home(stranger: Stranger, ground: Path) -> None:
    home = stranger.own_directory(ground / "data")
    where, said = stranger.directory(RINGRIFT_DATA_HOME=str(home))
    assert Path(where).is_relative_to(home)
    assert said == []


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_a_data_home_that_others_can_write_to_is_not_trusted(stranger: Stranger, ground: Path, mode: int) -> None:
    home = stranger.own_directory(ground / "data", mode)
    where, said = stranger.directory(RINGRIFT_DATA_HOME=str(home))
    assert Path(where).is_relative_to(stranger.temporary)
    assert len(said) == 1


def test_with_nothing_else_to_write_machine_code_is_kept_in_a_private_temporary_directory(stranger: Stranger) -> None:
    stranger.temporary.chmod(0o1777)
    where, said = stranger.directory()
    directory = Path(where)
    assert directory.parent == stranger.temporary / f"ringrift-dagster-{stranger.uid}"
    assert [path.stat().st_mode & 0o7777 for path in (directory, directory.parent)] == [0o700, 0o700]
    assert {path.stat().st_uid for path in (directory, directory.parent)} == {stranger.uid}
    assert said == [f"machine code is kept in {directory} and lost with it: set NUMBA_CACHE_DIR to keep it"]


def test_a_cache_directory_that_cannot_be_written_is_named(stranger: Stranger, ground: Path) -> None:
    (ground / "file").touch()
    home = stranger.own_directory(ground / "data")
    where, said = stranger.directory(RINGRIFT_DATA_HOME=str(home), NUMBA_CACHE_DIR=f"{ground}/file")
    assert Path(where).is_relative_to(home)
    assert said == [f"NUMBA_CACHE_DIR={ground}/file cannot be written: machine code is kept in {where}"]


@pytest.mark.parametrize("planted", ["open to others", "a link", "in an open directory", "another user's"])
def test_without_a_place_to_trust_everything_is_compiled_anew_and_one_line_says_so(
    stranger: Stranger, ground: Path, planted: str
) -> None:
    place = stranger.temporary / f"ringrift-dagster-{stranger.uid}"
    if planted == "open to others":
        stranger.own_directory(place, 0o777)
    elif planted == "a link":
        place.symlink_to(stranger.own_directory(ground / "elsewhere"))
    elif planted == "another user's" and os.geteuid() == 0:
        place.mkdir(mode=0o755)
    else:
        stranger.temporary.chmod(0o777)
    done = stranger.run("-c", COMPILE)
    assert done.stdout.split() == [INITIAL_HASH, "1"], done.stderr
    [line] = done.stderr.splitlines()
    assert line.startswith("machine code cannot be kept, every process compiles the rules anew (")
    assert line.endswith("): set NUMBA_CACHE_DIR")
    assert not list(ground.rglob("compiled-*"))


def test_the_code_location_loads_with_nowhere_to_write(stranger: Stranger, package: Path) -> None:
    stranger.own_directory(stranger.temporary / f"ringrift-dagster-{stranger.uid}", 0o777)
    load = "from ringrift_dagster.definitions import defs; print(*(s.key.path[-1] for s in defs().resolve_all_asset_specs()))"
    done = stranger.run("-c", load, RINGRIFT_DATA_HOME=str(package / "none"))
    assert {"selfplay_databases", "canonical_games"} < set(done.stdout.split()), done.stderr
    assert sum("machine code" in line for line in done.stderr.splitlines()) == 1


def test_games_are_verified_by_a_user_without_an_entry(ground: Path, damaged: Callable[[str], Path]) -> None:
    """With machine code that this process made, so that the test need not wait for the compiler."""
    database = Path(shutil.copy(damaged("base_ok"), ground / "games.db"))
    database.chmod(0o644)
    verify([database])
    assert compiled._DIRECTORY is not None
    stranger = Stranger(PROJECT, ground)
    own = stranger.own_directory(stranger.temporary / f"ringrift-dagster-{stranger.uid}")
    shutil.copytree(compiled._DIRECTORY, own / compiled._DIRECTORY.name)
    if os.geteuid() == 0:
        for path in own.rglob("*"):
            os.chown(path, NOBODY, NOBODY)
    main = "import sys; from ringrift_dagster.cli.main import main; main(sys.argv[1:])"
    done = stranger.run("-c", main, "verify", "--json", str(database))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["games"]["canonical"] == 6


def test_processes_that_start_together_share_one_cache(tmp_path: Path) -> None:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(PROJECT)}
    started = [
        subprocess.Popen([sys.executable, "-c", COMPILE], env=environment, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    assert {process.communicate()[0].split()[0] for process in started} == {INITIAL_HASH}
    assert _run(COMPILE, PROJECT, NUMBA_CACHE_DIR=str(tmp_path)).split() == [INITIAL_HASH, "0"]
    assert not list(tmp_path.rglob("*.tmp.*"))


def test_damaged_machine_code_is_replaced(tmp_path: Path) -> None:
    _run(COMPILE, PROJECT, NUMBA_CACHE_DIR=str(tmp_path))
    for suffix in ("nbc", "nbi"):
        for path in tmp_path.rglob(f"*.{suffix}"):
            path.write_bytes(path.read_bytes()[:20])
        assert _run(COMPILE, PROJECT, NUMBA_CACHE_DIR=str(tmp_path)).split() == [INITIAL_HASH, "1"]
        assert _run(COMPILE, PROJECT, NUMBA_CACHE_DIR=str(tmp_path)).split() == [INITIAL_HASH, "0"]


def test_a_full_disk_stops_nothing(tmp_path: Path) -> None:
    """Files can be created and not be filled."""

    def fill() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(PROJECT), "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", COMPILE],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=fill,  # noqa: PLW1509
    )
    out, said = process.communicate()
    assert out.split() == [INITIAL_HASH, "1"], said
    [line] = said.splitlines()
    assert line.startswith(f"machine code cannot be kept in {tmp_path}")

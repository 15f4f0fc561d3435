"""How compiled functions are compiled, and where their machine code is kept; nothing else.

Numba notices when the file of a cached function changes, but not when a function that it calls does: after an upgrade, old rules
would live on inside callers whose own file stayed the same. So the cache lies below a digest of all sources that compiled code is
made of, and any change to them starts a new one.

What `compiled` decorates must compute the same when `NUMBA_DISABLE_JIT` leaves it plain Python. Two things differ: a narrow or
unsigned number read from an array (Numba widens sums to int64, NumPy wraps them around: convert with `np.int64` where it is read),
and a record's field named like an attribute of NumPy's scalars (`size`: compiled the field, uncompiled the attribute).
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import multiprocessing
import os
import platform
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core import config as numba_config
from numba.core.caching import FunctionCache

from ringrift_dagster.home import Home

_PACKAGE = Path(__file__).resolve().parents[2]
_SOURCES = ("games/*.py", "games/rules/*.py", "ai/seeds.py", "ai/policies/*.py", "datasets/features.py", "datasets/labels.py")
_OPERATORS_DIRECTORY = str(getattr(numba_config, "CACHE_DIR", ""))  # NUMBA_CACHE_DIR
_log = logging.getLogger(__name__)


def engine() -> str:
    """What computes the rules in this process: `numba <version>`, or `python <version>` when compilation is disabled."""
    if numba_config.DISABLE_JIT:  # type: ignore[attr-defined]
        return "python " + ".".join(platform.python_version_tuple()[:2])
    return f"numba {numba.__version__}"


def _digest() -> str:
    """Digest of Numba's version and of every source that compiled code is made of, 16 hex digits."""
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(path for pattern in _SOURCES for path in _PACKAGE.glob(pattern)):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _permanent_places() -> Iterator[tuple[Path, bool]]:
    """Permanent directories for machine code, the preferred one first, each with whether other users may write beside it.

    The operator's choice, the sources' own directory and the user's home are trusted without checks.
    """
    if _OPERATORS_DIRECTORY:
        yield Path(_OPERATORS_DIRECTORY).absolute(), False
    yield Path(__file__).resolve().parent / "__pycache__", False
    with suppress(RuntimeError):  # neither HOME nor an entry in the user database
        yield Path.home().absolute() / ".cache" / "ringrift-dagster", False
    if home := Home.named():
        with suppress(RuntimeError):
            yield Path(home).expanduser() / f"machine-code-{os.geteuid()}", True


def _usable(place: Path, name: str, shared: bool) -> Path:
    """The directory `place/name`, created if need be. Raises OSError where no file can be created in it.

    A file is created to find out, since permissions are not enough (root, read-only mounts). Machine code is executed, so in a
    `shared` place the directory is private to this user, and refused if anybody else but root could write to it or replace it.
    """
    if shared:
        place = Path(os.path.realpath(place.parent)) / place.name
        place.parent.mkdir(parents=True, exist_ok=True)
        for path in place.parents:
            _refuse_others(path, owners=(0, os.geteuid()), sticky=True)
        for path in (place, place / name):
            path.mkdir(mode=0o700, exist_ok=True)
            _refuse_others(path, owners=(os.geteuid(),), sticky=False)
    else:
        (place / name).mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=place / name).close()
    return place / name


def _refuse_others(path: Path, owners: tuple[int, ...], sticky: bool) -> None:
    """Raise PermissionError unless `path` is a directory of one of the `owners` to which nobody else can write.

    With `sticky`, others may add files to it if they cannot rename or remove those of this user, as in /tmp.
    """
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in owners:
        raise PermissionError(f"{path} is not this user's directory")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not (sticky and status.st_mode & stat.S_ISVTX):
        raise PermissionError(f"other users can write to {path}")


def _cache_directory() -> Path | None:
    """The first usable directory, or None. Logs a warning if it is not the operator's, is temporary, or there is none."""
    name = f"compiled-{_digest()}"
    for place, shared in _permanent_places():
        with suppress(OSError):
            directory = _usable(place, name, shared)
            if _OPERATORS_DIRECTORY and place != Path(_OPERATORS_DIRECTORY).absolute():
                _warn_once(f"NUMBA_CACHE_DIR={_OPERATORS_DIRECTORY} cannot be written: machine code is kept in {directory}")
            return directory
    try:
        directory = _usable(Path(tempfile.gettempdir()) / f"ringrift-dagster-{os.geteuid()}", name, True)
    except OSError as error:
        _warn_once(f"machine code cannot be kept, every process compiles the rules anew ({error}): set NUMBA_CACHE_DIR")
        return None
    _warn_once(f"machine code is kept in {directory} and lost with it: set NUMBA_CACHE_DIR to keep it")
    return directory


@cache
def _warn_once(line: str) -> None:
    """Log a warning, each text once; on stderr where nothing configures logging. Worker processes leave it to their parent."""
    if multiprocessing.parent_process() is None:
        _log.warning("%s", line)


_DIRECTORY = None if numba_config.DISABLE_JIT else _cache_directory()  # type: ignore[attr-defined]
if _DIRECTORY is not None:
    numba_config.CACHE_DIR = str(_DIRECTORY)  # type: ignore[attr-defined]


@contextmanager
def _locked(operation: int) -> Iterator[None]:
    """Hold the cache's lock. Without it, processes that save different signatures at once could exchange their machine code."""
    descriptor = os.open(f"{_DIRECTORY}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, operation)
        try:
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing would not do while a forked process has it open
    finally:
        os.close(descriptor)


class _Cache(FunctionCache):
    """Numba's cache of one function; when it fails, the function is compiled instead, and the caller sees no error."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            with _locked(fcntl.LOCK_SH):
                return super().load_overload(sig, target_context)
        except Exception as error:  # unpickling what a crash left half written raises nearly anything
            _log.debug("machine code cannot be read: %r", error)
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            with _locked(fcntl.LOCK_EX):
                try:
                    super().save_overload(sig, data)
                except OSError:
                    raise
                except Exception:  # the index is damaged
                    self.flush()
                    super().save_overload(sig, data)
        except OSError as error:
            _warn_once(f"machine code cannot be kept in {_DIRECTORY}: {error.strerror or error}")


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function on first use and keep the machine code on disk for later processes."""
    dispatcher: Any = numba.njit(nogil=True, error_model="numpy")(function)
    if _DIRECTORY is not None:
        with suppress(RuntimeError):  # Numba's, when its own test of the directory fails
            kept = _Cache(function)
            if Path(kept.cache_path).is_relative_to(_DIRECTORY):
                dispatcher._cache = kept
    return dispatcher

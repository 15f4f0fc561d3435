"""Snapshots of live databases: consistent, checked, immutable copies named by their content.

A source database grows while it is read and is never copied as a file. Here: finding sources below a
directory, and making one snapshot. Which snapshots a config has is `sources`' business; what is in a
database `database`'s.
"""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ringrift_dagster.games import online_backup
from ringrift_dagster.games.database import DatabaseUnreadable, describe, file_sha256

BACKUP_TIMEOUT_SECONDS = 900.0
"""A source that stays locked, or a disk that hangs, for so long counts as unreadable."""


@dataclass(frozen=True)
class Snapshot:
    """One snapshot. `size` in bytes; `config_counts` maps config keys to finished games; `newest_game` is ISO
    time."""

    source: Path
    path: Path
    sha256: str
    size: int
    config_counts: dict[str, int]
    newest_game: str | None


def discover(root: Path) -> list[Path]:
    """The databases (`*.db`, not hidden) at any depth below `root`, sorted; none if there is no such place.

    A symbolic link counts only if it leads to a regular file below `root` that is not found anyway; links
    that dangle, loop or lead elsewhere are passed over, and so are directories that cannot be listed.
    """
    real_root = Path(os.path.realpath(root))
    found: dict[str, Path] = {}
    links: list[Path] = []
    for path in _database_names(root):
        if path.is_symlink():
            links.append(path)
        else:
            found[os.path.realpath(path)] = path
    for path in sorted(links):
        target = os.path.realpath(path)
        if Path(target).is_relative_to(real_root) and _is_regular(Path(target)):
            found.setdefault(target, path)
    return sorted(path for path in found.values() if _is_regular(path))


def snapshot(source: Path, into: Path) -> Snapshot:
    """Copy `source` consistently into the directory `into` as `<sha256>.db`.

    The copy is complete to a commit, passed SQLite's quick_check, and appears under its name only when it
    is on disk. Equal content gives the same file, which is then left as it is; what stands under that name
    with another content is replaced. Raises DatabaseUnreadable for a source that is no sound game database, and
    OSError if `into` cannot hold the copy.
    """
    if not _is_regular(source):
        raise DatabaseUnreadable(source, "no such file, or not a regular file")
    if source.stat().st_size == 0 and not _has_content(source.with_name(source.name + "-wal")):
        raise DatabaseUnreadable(source, "the file is empty")
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".snapshot-", dir=into) as staging:
        copy = Path(staging, "copy.db")
        _back_up(source, copy)
        try:
            summary = describe(copy)
        except DatabaseUnreadable as error:
            raise DatabaseUnreadable(source, error.detail) from None
        digest = file_sha256(copy)
        with copy.open("rb") as file:
            os.fsync(file.fileno())
        size = copy.stat().st_size
        final = into / f"{digest}.db"
        if not _has_hash(final, digest, size):
            copy.rename(final)
            _sync_directory(into)
    return Snapshot(source, final, digest, size, dict(summary.configs), summary.newest_game)


def _back_up(source: Path, copy: Path) -> None:
    """Run `online_backup` in a fresh interpreter."""
    command = [sys.executable, "-I", online_backup.__file__, str(source), str(copy)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=BACKUP_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DatabaseUnreadable(source, f"not copied within {BACKUP_TIMEOUT_SECONDS:.0f} s") from None
    said = done.stderr.strip().splitlines()
    reason = said[-1] if said else f"the backup ended with status {done.returncode}"
    if done.returncode == online_backup.EXIT_NO_ROOM:
        raise OSError(errno.ENOSPC, f"no room for a snapshot of {source}", str(copy.parent.parent))
    if done.returncode:
        raise DatabaseUnreadable(source, f"{reason}")


def _database_names(root: Path) -> Iterator[Path]:
    for directory, subdirectories, names in os.walk(root):
        subdirectories[:] = [name for name in subdirectories if not name.startswith(".")]
        for name in names:
            if name.endswith(".db") and not name.startswith("."):
                yield Path(directory, name)


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def _has_hash(path: Path, digest: str, size: int) -> bool:
    try:
        return _is_regular(path) and path.stat().st_size == size and file_sha256(path) == digest
    except OSError:
        return False


def _has_content(path: Path) -> bool:
    return _is_regular(path) and path.stat().st_size > 0


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Listing the files of a directory tree that count, by a layout: names, sizes and times, no content.

Symbolic links are followed only to what lies inside the root and is not found anyway. What cannot be listed is told apart from what
is not there. Remembering and hashing belong to `tree_cache` and `tree`.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ringrift_dagster.manifest.inventory import MAX_PATH
from ringrift_dagster.manifest.sources.layouts import SIDECAR_SUFFIX, Layout, Rule, is_listed

_ABSENT = (FileNotFoundError, NotADirectoryError)


@dataclass(frozen=True, slots=True)
class Seen:
    """One file as listed. `stamp` changes with the files that belong to it: a database's log, a model's sidecar."""

    path: str
    real: str
    size: int
    mtime_ns: int
    inode: int
    rule: Rule
    set_aside: bool
    stamp: str = ""
    log_bytes: int = 0
    """Of a database's write-ahead log."""


@dataclass
class Listing:
    """What a walk saw. `failed` are folders and files that could not be looked at: nothing is known of them and below."""

    files: dict[str, Seen] = field(default_factory=dict)
    unsafe: dict[str, str] = field(default_factory=dict)
    """Links that are not followed, and why."""
    failed: dict[str, str] = field(default_factory=dict)
    skipped: int = 0
    """Names that no inventory can hold."""

    def is_unknown(self, path: str) -> bool:
        """Whether the walk tells nothing about a path."""
        end = len(path)
        while end > 0:
            if path[:end] in self.failed:
                return True
            end = path.rfind("/", 0, end)
        return False


def walk(root: Path, layout: Layout) -> Listing:
    """List the tree. Raises OSError if the root itself cannot be listed."""
    return _Walk(root, layout).run()


class _Walk:
    def __init__(self, root: Path, layout: Layout) -> None:
        self.real_root = os.path.realpath(root)
        self.layout = layout
        self.listing = Listing()
        self.entered: set[tuple[int, int]] = set()
        self.links: deque[tuple[str, str]] = deque()
        self.found: set[str] = set()
        self.files: list[tuple[str, str, os.stat_result, Rule]] = []
        self.sides: dict[str, os.stat_result] = {}

    def run(self) -> Listing:
        self._enter("", self.real_root)
        self._take_files()
        while self.links:
            batch = sorted(self.links)
            self.links.clear()
            for path, real in batch:
                self._follow(path, real)
                self._take_files()
        return self.listing

    def _enter(self, path: str, real: str) -> None:
        pending = [(path, real)]
        while pending:
            path, real = pending.pop()
            try:
                at = Path(real).stat()
                if (at.st_dev, at.st_ino) in self.entered:
                    continue
                self.entered.add((at.st_dev, at.st_ino))
                with os.scandir(real) as entries:
                    for entry in entries:
                        pending += self._entry(path, entry)
            except OSError as error:
                if not path:
                    raise  # a root that cannot be listed is an error, not an empty tree
                if not isinstance(error, _ABSENT):
                    self.listing.failed[path] = error.strerror or str(error)

    def _entry(self, folder: str, entry: os.DirEntry[str]) -> Iterator[tuple[str, str]]:
        name = entry.name
        path = f"{folder}/{name}" if folder else name
        try:
            if entry.is_symlink():
                if is_listed(name) and self._is_plain(path) and self.layout.leads_to(path):
                    self.links.append((path, entry.path))
            elif entry.is_dir(follow_symlinks=False):
                if is_listed(name) and self.layout.leads_to(path) and self._is_plain(path):
                    yield path, entry.path
            elif name.endswith(("-wal", SIDECAR_SUFFIX)):
                self.sides[entry.path] = entry.stat(follow_symlinks=False)
            elif is_listed(name) and (rule := self.layout.rule(path)) and self._is_plain(path):
                at = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(at.st_mode):
                    self.files.append((path, entry.path, at, rule))
        except _ABSENT:
            return
        except OSError as error:
            if self._is_plain(path):
                self.listing.failed[path] = error.strerror or str(error)

    def _is_plain(self, path: str) -> bool:
        """Whether an inventory can hold the path; counts those that it cannot."""
        plain = path.isprintable() and "\\" not in path and len(path) <= MAX_PATH  # what is not Unicode is not printable
        self.listing.skipped += not plain
        return plain

    def _take_files(self) -> None:
        """Turn the files listed since the last time into `Seen`; now it is known what stands beside them."""
        for path, real, at, rule in self.files:
            if real in self.found:
                continue
            self.found.add(real)
            log = self.sides.get(real + "-wal")
            beside = [log, self.sides.get(real + SIDECAR_SUFFIX), self.sides.get(real.rpartition(".")[0] + SIDECAR_SUFFIX)]
            stamp = " ".join(f"{side.st_size}:{side.st_mtime_ns}" for side in beside if side is not None)
            self.listing.files[path] = Seen(
                path,
                real,
                at.st_size,
                at.st_mtime_ns,
                at.st_ino,
                rule,
                self.layout.is_set_aside(path),
                stamp,
                log.st_size if log else 0,
            )
        self.files.clear()

    def _follow(self, path: str, link: str) -> None:
        try:
            target = os.path.realpath(link, strict=True)
            at = Path(target).stat()
        except _ABSENT:
            self.listing.unsafe[path] = "dangles"
            return
        except (OSError, RuntimeError) as error:
            loops = getattr(error, "errno", None) in (None, 40)
            if loops:
                self.listing.unsafe[path] = "loops"
            else:
                self.listing.failed[path] = str(error)
            return
        if target != self.real_root and not target.startswith(self.real_root + os.sep):
            self.listing.unsafe[path] = "leads out of the root"
        elif any(part.startswith(".") for part in Path(target).relative_to(self.real_root).parts[:-1]):
            return
        elif stat.S_ISDIR(at.st_mode):
            self._enter(path, target)
        elif stat.S_ISREG(at.st_mode) and (rule := self.layout.rule(path)) and target not in self.found:
            log = Path(target + "-wal")
            if log.is_file() and not log.is_symlink():
                self.sides[str(log)] = log.stat()
            self.files.append((path, target, at, rule))

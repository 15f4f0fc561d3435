"""The promoted models under RingRift's names in `models/` of a RingRift tree, where others write too.

That directory cannot be exchanged as a whole. The tree's model manifest says what should be there, so that work that was
interrupted is completed by the next call. For each name: the sidecar goes (RingRift's loader accepts that), the new file takes the
place of the old one, then come the new sidecar and meta file, each step on disk before the next. So at no moment does a file
contradict its sidecar; a reader that reads the sidecar before and after the file notices a replacement.

A file that stands under one of the names and was not put there by `link_names` is kept beside it as `<name>.replaced-<sha12>`.
RingRift takes any `*.pth` in `models/` for a model, and `ringrift_best_<x>_*.pth` for a newer variant of it. So what is kept, or on
its way, never ends in `.pth`.

Names of one config are hard links to one file, which is not a link to anything outside: RingRift's scripts write into model files
in place.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from filelock import FileLock, Timeout

from ringrift_dagster.models.manifest import PATH, Current, ModelManifest, read, read_signed
from ringrift_dagster.models.publishing.checking import Inode, check_name, hash_by_inode, kind_of
from ringrift_dagster.models.publishing.files import (
    ContentDiffers,
    ExchangeUnsupported,
    copy_verified,
    exchange,
    hash_of,
    link_or_copy,
    open_regular,
    rename_to_free_name,
    sync_directory,
    write_durably,
)
from ringrift_dagster.models.publishing.names import (
    DEVICE_SUFFIX,
    MODELS,
    SUFFIX,
    meta,
    meta_name,
    model_names,
    sidecar,
    sidecar_name,
)
from ringrift_dagster.models.publishing.reasons import Finding, PublishingRefused

if TYPE_CHECKING:
    from ringrift_dagster.models.publishing.published_set import Verifier

LOCK_SECONDS: Final = 60.0
LEDGER: Final = ".published_models"
"""In `models/`: the SHA-256 of every model and meta file that `link_names` ever put there, one a line."""
_MODE: Final = 0o666
_SHA256: Final = re.compile(r"[0-9a-f]{64}")

FindContent = Callable[[str, Current], Path | None]
"""The path of a file with a config's model, if it has arrived."""


@dataclass(frozen=True)
class LinkedNames:
    """What a call of `link_names` did. `linked` are names that were not right before, `kept` the names of files that stood there.

    `findings` say which names are not right now, and why.
    """

    linked: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


def link_names(tree: Path, content: FindContent, *, verify: Verifier | None = None, timeout: float = LOCK_SECONDS) -> LinkedNames:
    """Put the models that the tree's manifest names under RingRift's names, and complete what was interrupted.

    A config whose model has not arrived keeps what it has; with `verify`, all keep what they have while the manifest has no valid
    signature. Returns when all is on disk. Raises PublishingRefused.
    """
    directory = tree / MODELS
    try:
        directory.mkdir(exist_ok=True)  # not the tree: a drive may not be mounted
        with FileLock(directory / ".model_names.lock", timeout=timeout):
            try:
                manifest = read(tree) if verify is None else read_signed(tree, verify)
            except PublishingRefused as error:
                return LinkedNames(findings=(Finding(error.reason, PATH, str(error).partition(": ")[2]),))
            return _Names(directory).link(manifest, content)
    except Timeout as error:
        raise PublishingRefused(
            "busy", f"{directory}: another process has been publishing for {timeout:.0f} s; try again"
        ) from error
    except OSError as error:
        raise PublishingRefused("unreadable", f"{error.filename or directory}: {error.strerror or error}") from error


def check_names(tree: Path) -> list[Finding]:
    """What is wrong with the names of a tree, by its manifest: every byte of every model is read. Raises PublishingRefused."""
    directory = tree / MODELS
    findings: list[Finding] = []
    hashes: dict[Inode, str] = {}
    with _opened(directory) as descriptor:
        for config, current in read(tree).models.items():
            for name in model_names(config):
                findings += check_name(descriptor, name, config, current, hashes)
                shadow = f"{name.removesuffix(SUFFIX)}{DEVICE_SUFFIX}"
                if kind_of(descriptor, shadow) is not None:
                    findings.append(Finding("shadowed", name, f"{shadow} is loaded instead of {name} on Apple's GPUs"))
    return findings


@dataclass
class _Names:
    """One call's work in a `models/` directory, under its lock."""

    directory: Path
    linked: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    hashes: dict[Inode, str] = field(default_factory=dict)
    published: set[str] = field(default_factory=set)

    def link(self, manifest: ModelManifest, content: FindContent) -> LinkedNames:
        self.published = _read_ledger(self.directory / LEDGER)
        for config, current in sorted(manifest.models.items()):
            try:
                with self._reporting(config):
                    self._link(config, current, content)
            except ContentDiffers as error:
                self.findings.append(Finding("hash_mismatch", config, str(error)))
        return LinkedNames(tuple(self.linked), tuple(self.kept), tuple(self.findings))

    def _link(self, config: str, current: Current, content: FindContent) -> None:
        names = model_names(config)
        recovered = set()
        for name in names:
            with self._reporting(name):
                self._recover(name)
                recovered.add(name)
        with _opened(self.directory) as descriptor:
            wrong = [name for name in names if any(check_name(descriptor, name, config, current, self.hashes))]
        sound = [name for name in names if self._hash(name) == current.sha256]
        wrong = [name for name in wrong if name in recovered]
        if not wrong:
            return
        source = None if sound else content(config, current)
        if not sound and source is None:
            text = f"{config}: the model {current.sha256[:12]}… has not arrived; its names are as they were"
            self.findings.append(Finding("no_content", config, text))
            return
        self._record(current.sha256)
        for name in wrong:
            with self._reporting(name):
                self._refuse_others(name)
                self._refuse_others(sidecar_name(name))
                if name not in sound:
                    self._put(self._complete(name, sound, source, current.sha256), name)
                    sound.append(name)
                self._write(sidecar_name(name), sidecar(name, current.sha256))
                self._write_meta(meta_name(name), meta(name, config, current))
                sync_directory(self.directory)
                self.linked.append(name)

    @contextmanager
    def _reporting(self, name: str) -> Iterator[None]:
        """Make a finding of what the file system refuses: one name, or config, keeps no other from being written."""
        try:
            yield
        except OSError as error:
            text = f"{error.filename or self.directory}: {error.strerror or error}"
            self.findings.append(Finding("unreadable", name, text))

    def _refuse_others(self, name: str) -> None:
        """Refuse a directory, a pipe and the like under a name: they can neither be kept nor replaced."""
        path = self.directory / name
        if os.path.lexists(path) and not (path.is_symlink() or path.is_file()):
            raise OSError(errno.EINVAL, "is no file; move it away", str(path))

    def _complete(self, name: str, sound: list[str], source: Path | None, sha256: str) -> Path:
        """A complete file with the model's bytes, not under its name yet: a link to a sound name, else a verified copy."""
        part = self.directory / _part(name)
        if sound:
            link_or_copy(self.directory / sound[0], part, sha256, _MODE)
            if self._hash(part.name) != sha256:
                raise ContentDiffers(f"{self.directory / sound[0]} was changed while it was linked")
            return part
        assert source is not None
        copying = self.directory / _copying(name)
        copy_verified(source, copying, sha256, _MODE)
        return copying.rename(part)

    def _put(self, part: Path, name: str) -> None:
        """Give a complete file its name. What stood there gets the part's name in the same step, and is then kept or removed."""
        target = self.directory / name
        (self.directory / sidecar_name(name)).unlink(missing_ok=True)
        sync_directory(self.directory)
        try:
            if os.path.lexists(target):
                exchange(part, target)
            else:
                rename_to_free_name(part, target)
        except ExchangeUnsupported:
            self._keep(target, name, move=False)
            part.replace(target)
        sync_directory(self.directory)
        self._recover(name)

    def _recover(self, name: str) -> None:
        """Deal with what an exchange, or a call that was killed, left under the names of files that are on their way."""
        for unfinished in (_copying(name), _new(sidecar_name(name)), _new(meta_name(name))):
            (self.directory / unfinished).unlink(missing_ok=True)
        if os.path.lexists(part := self.directory / _part(name)):
            self._keep(part, name, move=True)

    def _write_meta(self, name: str, content: bytes) -> None:
        """RingRift's own meta file has what is nowhere else, so it is kept."""
        self._refuse_others(name)
        self._record(hashlib.sha256(content).hexdigest())
        if os.path.lexists(self.directory / name):
            self._keep(self.directory / name, name, move=False)
        self._write(name, content)

    def _write(self, name: str, content: bytes) -> None:
        new = self.directory / _new(name)
        write_durably(new, content, _MODE)
        new.replace(self.directory / name)

    def _keep(self, path: Path, name: str, *, move: bool) -> None:
        """Keep a file beside `name` unless `link_names` had put it there: under another name as well, or with `move` instead."""
        digest = _identity(path)
        if digest not in self.published:
            kept = path.with_name(f"{name}.replaced-{digest[:12]}")
            if os.path.lexists(kept) and _identity(kept) != digest:
                kept = path.with_name(f"{name}.replaced-{digest}")
            self.kept.append(kept.name)
            if move:
                path.replace(kept)
            elif not os.path.lexists(kept):
                os.link(path, kept, follow_symlinks=False)
            sync_directory(self.directory)
        elif move:
            path.unlink()

    def _record(self, digest: str) -> None:
        """Remember content as our own, on disk, before it gets a name."""
        if digest not in self.published:
            with (self.directory / LEDGER).open("ab") as file:
                file.write(f"\n{digest}\n".encode())
                file.flush()
                os.fsync(file.fileno())
            sync_directory(self.directory)
            self.published.add(digest)

    def _hash(self, name: str) -> str | None:
        """SHA-256 of a regular file in the directory; None if there is none that can be read."""
        try:
            with open_regular(self.directory / name) as descriptor:
                return hash_by_inode(descriptor, self.hashes)
        except OSError:
            return None


def _identity(path: Path) -> str:
    """SHA-256 of a file's content, or of where a symbolic link leads."""
    if path.is_symlink():
        return hashlib.sha256(os.fsencode(path.readlink())).hexdigest()
    with open_regular(path) as descriptor:
        return hash_of(descriptor)


def _read_ledger(path: Path) -> set[str]:
    try:
        return set(_SHA256.findall(path.read_text(errors="replace")))
    except FileNotFoundError:
        return set()


def _part(name: str) -> str:
    return f".{name}.part"


def _new(name: str) -> str:
    return f".{name}.new"


def _copying(name: str) -> str:
    return f".{name}.copying"


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise PublishingRefused("unreadable", f"{directory}: {error.strerror}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)

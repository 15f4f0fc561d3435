"""The published set: every config's promoted model and `model_manifest.json` in one directory of its own, switched as one.

A new generation is built beside the directory, verified byte by byte, brought to disk, and exchanged with the directory in one step
of the file system. Whoever opens the directory sees one generation, and keeps it while it is open until the next but one is
published. Beside the directory are `.<name>.next` (being built), `.<name>.previous` and `.<name>.lock`.

Not here: directories that others write into too (`tree_names`), and which model is promoted.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout
from pydantic import ValidationError

from ringrift_dagster.models.manifest import MAX_BYTES, MAX_SIGNATURE_BYTES, Current, ModelManifest, SignedManifest, later
from ringrift_dagster.models.publishing.checking import Inode, check_name
from ringrift_dagster.models.publishing.files import (
    ContentDiffers,
    ExchangeUnsupported,
    copy_verified,
    exchange,
    link_or_copy,
    open_regular,
    sync_directory,
    write_durably,
)
from ringrift_dagster.models.publishing.names import meta, meta_name, model_names, sidecar, sidecar_name
from ringrift_dagster.models.publishing.reasons import Finding, PublishingRefused

MANIFEST: Final = "model_manifest.json"
SIGNATURE: Final = f"{MANIFEST}.sig"
LOCK_SECONDS: Final = 60.0
_MODE: Final = 0o444
"""Of published files, before umask: RingRift's scripts write into model files in place."""
_RETRIES: Final = 100

Signer = Callable[[bytes], bytes]
"""Makes the detached signature of a manifest's bytes."""
Verifier = Callable[[bytes, bytes], None]
"""Raises PublishingRefused unless the second is a signature of the first."""


@dataclass(frozen=True)
class ModelFile:
    """A model that is to be published: the manifest's entry, and the path of a file with its bytes."""

    current: Current
    path: Path


@dataclass(frozen=True)
class Publication:
    """What a call of `publish` did.

    `changed` are configs whose entry is new, `superseded` those whose given model was promoted before the published one. `switched`
    is False if everything was there already.
    """

    manifest: ModelManifest
    changed: tuple[str, ...]
    superseded: tuple[str, ...]
    switched: bool


class OpenSet:
    """One generation of a published set, held open: a later publication does not change what is read from it."""

    def __init__(self, descriptor: int) -> None:
        """Read the manifest of an open directory. Raises OSError and ValidationError."""
        self._descriptor = descriptor
        self.content = self._read(MANIFEST, MAX_BYTES)
        self.manifest = ModelManifest.model_validate_json(self.content)

    @property
    def signature(self) -> bytes | None:
        """The detached signature of `content`; None if there is none."""
        try:
            return self._read(SIGNATURE, MAX_SIGNATURE_BYTES)
        except OSError:
            return None

    @contextmanager
    def open(self, name: str) -> Iterator[int]:
        """Open a file of the set for reading, as a descriptor. Raises OSError."""
        with open_regular(name, self._descriptor) as descriptor:
            yield descriptor

    def check(self, hashes: dict[Inode, str] | None = None, verify: Verifier | None = None) -> list[Finding]:
        """Everything that is wrong: every byte of every model is read. `hashes` remembers files between calls."""
        hashes = {} if hashes is None else hashes
        findings = []
        expected = {MANIFEST, SIGNATURE}
        for config, current in self.manifest.models.items():
            names = model_names(config)
            if current.files != names:
                findings.append(
                    Finding("wrong_names", MANIFEST, f"{config}: the names are {', '.join(current.files) or 'missing'}")
                )
            for name in names:
                findings += check_name(self._descriptor, name, config, current, hashes)
                expected |= {name, sidecar_name(name), meta_name(name)}
        for name in sorted(set(os.listdir(self._descriptor)) - expected):  # noqa: PTH208 (a descriptor)
            findings.append(Finding("unexpected_file", name, f"{name} is not in the manifest"))
        if verify is not None:
            findings += self._check_signature(verify)
        return findings

    def _check_signature(self, verify: Verifier) -> list[Finding]:
        try:
            if (signature := self.signature) is None:
                raise PublishingRefused("no_signature", f"{SIGNATURE} is not there")
            verify(self.content, signature)
        except PublishingRefused as error:
            return [Finding(error.reason, SIGNATURE, str(error).partition(": ")[2])]
        return []

    def _read(self, name: str, limit: int) -> bytes:
        with open_regular(name, self._descriptor) as descriptor:
            return os.read(descriptor, limit)


@contextmanager
def open_set(directory: Path) -> Iterator[OpenSet]:
    """Open the generation that stands there now. Raises PublishingRefused if there is none that can be read."""
    descriptor, opened = _opened(directory)
    try:
        yield opened
    finally:
        os.close(descriptor)


def read_set(directory: Path) -> ModelManifest:
    """The manifest of a published set, without looking at the models. Raises PublishingRefused."""
    with open_set(directory) as opened:
        return opened.manifest


def signed_manifest(directory: Path) -> SignedManifest | None:
    """The manifest of a published set with its signature; None if it has none. Raises PublishingRefused."""
    with open_set(directory) as opened:
        signature = opened.signature
        return None if signature is None else SignedManifest(opened.content, signature)


def check_set(directory: Path, verify: Verifier | None = None) -> list[Finding]:
    """Everything that is wrong with a published set; with `verify` also its signature. Raises PublishingRefused if it is none."""
    findings: list[Finding] = []
    for _ in range(_RETRIES):
        with open_set(directory) as opened:
            findings = opened.check(verify=verify)
            if not findings or _same(opened._descriptor, directory):
                return findings
    return findings


def publish(
    directory: Path, models: Mapping[str, ModelFile], *, sign: Signer | None = None, timeout: float = LOCK_SECONDS
) -> Publication:
    """Publish models by config; configs that are not given keep what is published. Returns when the set is on disk.

    Readers of the directory see the set before or the set after, whatever interrupts this. Of two promotions of a config the later
    one counts, in whatever order they are published. Publishing what is published changes nothing, but damaged files of the set are
    replaced. Raises PublishingRefused and UnknownConfig, and leaves what is published as it is then.
    """
    directory = directory.absolute()
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(directory.with_name(f".{directory.name}.lock"), timeout=timeout):
            return _publish(directory, models, sign)
    except Timeout as error:
        raise PublishingRefused(
            "busy", f"{directory}: another process has been publishing for {timeout:.0f} s; try again"
        ) from error
    except OSError as error:
        raise PublishingRefused("unreadable", f"{error.filename or directory}: {error.strerror or error}") from error


@dataclass(frozen=True)
class _Present:
    """What is published. `damaged` are names with findings; `exists` is False if nothing is published yet."""

    manifest: ModelManifest
    damaged: frozenset[str]
    signature: bytes | None
    exists: bool


def _publish(directory: Path, models: Mapping[str, ModelFile], sign: Signer | None) -> Publication:
    staging = directory.with_name(f".{directory.name}.next")
    _refuse_others(_previous(directory))
    _refuse_others(staging)
    if staging.exists():  # of a run that was killed
        shutil.rmtree(staging)
    hashes: dict[Inode, str] = {}
    before = _present(directory, hashes)
    entries = dict(before.manifest.models)
    for config, given in models.items():
        entries[config] = later(entries.get(config), given.current)
    entries = {config: current.model_copy(update={"files": model_names(config)}) for config, current in sorted(entries.items())}
    after = before.manifest.model_copy(update={"models": entries})
    changed = tuple(config for config, current in entries.items() if before.manifest.models.get(config) != current)
    superseded = tuple(sorted(config for config, given in models.items() if entries[config].sha256 != given.current.sha256))
    content = after.dump()
    signature = sign(content) if sign is not None else None if changed else before.signature
    if before.exists and not changed and not before.damaged and signature == before.signature:
        return Publication(after, (), superseded, switched=False)
    try:
        staging.mkdir()
        _probe_exchange(staging)
        for config, current in entries.items():
            _place(staging, config, current, _sources(directory, before, config, current, models.get(config)))
        write_durably(staging / MANIFEST, content, _MODE)
        if signature is not None:
            write_durably(staging / SIGNATURE, signature, _MODE)
        sync_directory(staging)
        _verify(staging, hashes)
        _switch(staging, directory)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Publication(after, changed, superseded, switched=True)


def _present(directory: Path, hashes: dict[Inode, str]) -> _Present:
    """What is published. Raises PublishingRefused if anything is there that is not: it would be lost."""
    if directory.is_symlink():
        raise PublishingRefused("symbolic_link", f"{directory} is a symbolic link; name the directory itself")
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return _Present(ModelManifest(), frozenset(), None, exists=False)
    _refuse_others(directory)
    if not os.path.lexists(directory / MANIFEST):
        names = ", ".join(sorted(path.name for path in directory.iterdir())[:3])
        raise PublishingRefused("not_a_set", f"{directory} has no {MANIFEST}, but other files ({names}); move them away")
    with open_set(directory) as opened:
        findings = opened.check(hashes)
        if foreign := [finding.name for finding in findings if finding.code == "unexpected_file"]:
            raise PublishingRefused(
                "unexpected_file", f"{directory} has {', '.join(foreign[:3])}, which is not published; move it away"
            )
        return _Present(opened.manifest, frozenset(finding.name for finding in findings), opened.signature, exists=True)


def _refuse_others(path: Path) -> None:
    """Refuse what is there if it is no directory, as a generation is."""
    if path.is_symlink():
        raise PublishingRefused("symbolic_link", f"{path} is a symbolic link; move it away")
    if path.exists() and not path.is_dir():
        raise PublishingRefused("unexpected_file", f"{path} is no directory; move it away")


def _previous(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}.previous")


def _sources(directory: Path, before: _Present, config: str, current: Current, given: ModelFile | None) -> list[tuple[Path, bool]]:
    """Files with a model's bytes, the best first, and whether they may be linked: nobody else writes into what is published."""
    sources = []
    published = before.manifest.models.get(config)
    if published is not None and published.sha256 == current.sha256:
        sources += [(directory / name, True) for name in model_names(config) if name not in before.damaged]
    if given is not None and given.current.sha256 == current.sha256:
        sources.append((given.path, False))
    return sources


def _place(staging: Path, config: str, current: Current, sources: list[tuple[Path, bool]]) -> None:
    """Put a config's files into the generation that is being built."""
    if not sources:
        raise PublishingRefused("no_content", f"{config}: what is published is damaged, and no file with its bytes was given")
    first, *others = model_names(config)
    source, may_link = sources[0]
    try:
        if may_link:
            link_or_copy(source, staging / first, current.sha256, _MODE)
        else:
            _refuse_other_formats(source)
            copy_verified(source, staging / first, current.sha256, _MODE)
        for name in others:
            link_or_copy(staging / first, staging / name, current.sha256, _MODE)
    except ContentDiffers as error:
        raise PublishingRefused("hash_mismatch", str(error)) from error
    for name in (first, *others):
        write_durably(staging / sidecar_name(name), sidecar(name, current.sha256), _MODE)
        write_durably(staging / meta_name(name), meta(name, config, current), _MODE)


def _refuse_other_formats(path: Path) -> None:
    try:
        with open_regular(path) as descriptor:
            head = os.read(descriptor, 2)
    except OSError as error:
        raise PublishingRefused("no_content", f"{path}: {error.strerror}") from error
    if head != b"PK" and head[:1] != b"\x80":
        raise PublishingRefused("not_torch", f"{path} is no torch checkpoint; RingRift's readers load nothing else")


def _probe_exchange(staging: Path) -> None:
    """Find out before any work whether the file system can do what the switch needs."""
    probes = (staging / "a", staging / "b")
    for probe in probes:
        probe.mkdir()
    try:
        exchange(*probes)
    except ExchangeUnsupported as error:
        raise PublishingRefused(
            "no_exchange",
            f"{staging.parent} is on a file system that cannot exchange directories ({error.strerror}); choose another",
        ) from error
    for probe in probes:
        probe.rmdir()


def _verify(staging: Path, hashes: dict[Inode, str]) -> None:
    with open_set(staging) as opened:
        if findings := opened.check(hashes):
            raise PublishingRefused(findings[0].code, f"{staging}: {findings[0].text}")


def _switch(staging: Path, directory: Path) -> None:
    """Put a finished generation in the place of the one before, which becomes the previous one."""
    if not directory.exists():
        staging.rename(directory)
    else:
        previous = _previous(directory)
        if previous.exists():
            shutil.rmtree(previous)
        staging.rename(previous)
        exchange(previous, directory)
    sync_directory(directory.parent)


def _opened(directory: Path) -> tuple[int, OpenSet]:
    """Open a generation; one that was removed in the meantime is not the one that stands there."""
    problem: Exception | None = None
    for _ in range(_RETRIES):
        try:
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise PublishingRefused("not_a_set", f"{directory}: {error.strerror}") from error
        try:
            return descriptor, OpenSet(descriptor)
        except (OSError, ValidationError) as error:
            problem = error
            same = _same(descriptor, directory)
            os.close(descriptor)
            if same:
                break
    text = problem.strerror if isinstance(problem, OSError) else "is no model manifest; move the set away and publish again"
    raise PublishingRefused("not_a_set", f"{directory / MANIFEST}: {text}") from problem


def _same(descriptor: int, directory: Path) -> bool:
    """Whether an open directory is the one that stands there now."""
    try:
        return os.path.samestat(os.fstat(descriptor), directory.lstat())
    except OSError:
        return False

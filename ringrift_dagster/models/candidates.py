"""Candidates: trained checkpoints that are registered, with what they were trained on, and what disqualifies one.

A candidate is its SHA-256. Its file and a JSON record lie below `home.models/candidates/<config>/`; the record is written last and
makes the registration. Nothing is concluded from names or file times. What games say about a candidate is for `evaluation`, whether
it is promoted for `promotion`.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import mkstemp
from typing import Annotated, Any, Final

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ringrift_dagster.cluster.topology import AgeLimits
from ringrift_dagster.datasets.encoders import BOARD_FACTS
from ringrift_dagster.datasets.features import encoding
from ringrift_dagster.datasets.npz_reader import NpzError, open_regular
from ringrift_dagster.datasets.npz_writer import publish
from ringrift_dagster.datasets.training_sets import TrainingSet, training_set
from ringrift_dagster.games.config import CONFIG_KEYS, Config, parse_config
from ringrift_dagster.games.database import file_sha256
from ringrift_dagster.home import Home
from ringrift_dagster.models.checkpoints.description import Checkpoint, read_checkpoint
from ringrift_dagster.models.checkpoints.refusals import CheckpointRefused
from ringrift_dagster.models.manifest import Sha256

MAX_DATA_AGE: Final = AgeLimits().fail.total_seconds()
"""Age in seconds of a training set's newest game when training began, above which the data are stale; the default."""
CLOCK_TOLERANCE: Final = 3600.0
"""Seconds by which the clocks of hosts may differ."""
MIN_PREFIX: Final = 8
"""Characters of a hash that are enough to name a candidate, if no other begins with them."""
SUFFIXES: Final = {"torch-zip": ".pth", "torch-legacy": ".pth", "safetensors": ".safetensors", "onnx": ".onnx"}
MAX_RECORD_BYTES: Final = 1 << 20
_STAGED_PREFIX: Final = ".candidate-"
_STAGED_SUFFIX: Final = ".part"

Text = Annotated[str, Field(max_length=500)]
Seconds = Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)]

PROBLEMS: Final = {
    "config_mismatch": "The model is not for this config, or does not say for which it is.",
    "format_unsupported": "RingRift's processes load torch files only.",
    "channels_mismatch": "The network takes another number of planes than the encoder of its config makes.",
    "policy_mismatch": "The network's policy has another size than the moves of its board need.",
    "encoder_mismatch": "The model was trained with another encoder or feature version than its training set has.",
    "provenance_unknown": "It is not known on which training set, exported from canonical games here, the model was trained.",
    "training_time_unknown": "It is not recorded when training began, or that cannot be true.",
    "stale_data": "The newest game of the training set was too old when training began.",
    "file_damaged": "The candidate's file is missing, or its bytes are not those that were registered.",
}
"""What disqualifies a candidate, by code, in one line."""


class RegistrationRefused(ValueError):
    """A candidate that cannot be registered; the message is one line."""


class UnknownCandidate(ValueError):
    """No candidate, or more than one, is meant; the message is one line that says what to do."""


@dataclass(frozen=True)
class Problem:
    """One thing that disqualifies a candidate: a key of PROBLEMS, and one line."""

    code: str
    text: str


class Facts(BaseModel):
    """What the file says about its network; None is what it does not say."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: str
    parameters: int
    config: str | None
    architecture: str | None
    architecture_version: str | None
    in_channels: int | None
    policy_size: int | None
    encoder: str | None
    feature_version: int | None


class Candidate(BaseModel):
    """The record of a registered checkpoint. Times are seconds since 1970; `file` is a name beside the record.

    `origin` says where it came from (a file, a training job, a host), `training_data_sha256` is the hash of the NPZ it was trained
    on, `training_began` when that started. `metrics` are what the trainer reported.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: int = 1
    sha256: Sha256
    config: Text
    file: Annotated[str, Field(pattern=r"^[0-9a-f]{64}\.[a-z]{1,16}$")]
    bytes: Annotated[int, Field(ge=0, le=1 << 53)]
    facts: Facts
    registered_at: Seconds
    registered_by: Text
    origin: Text
    training_data_sha256: Sha256 | None = None
    training_began: Seconds | None = None
    metrics: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class Qualification:
    """A candidate beside what it was trained on, and what disqualifies it."""

    candidate: Candidate
    path: Path
    training_set: TrainingSet | None
    problems: tuple[Problem, ...]


def directory(home: Home, config: str) -> Path:
    """Where a config's candidates are."""
    return home.models / "candidates" / config


def register(
    home: Home,
    file: Path,
    config: Config,
    *,
    origin: str,
    who: str,
    training_data_sha256: str | None = None,
    training_began: float | None = None,
    metrics: dict[str, Any] | None = None,
) -> Candidate:
    """Take a checkpoint in as a candidate of a config; the file that is given stays where it is.

    What the file records about its training set counts where nothing is given. A candidate that is registered already gets what its
    record lacked. Raises CheckpointRefused, RegistrationRefused where the sources contradict each other, and OSError.
    """
    folder = directory(home, config.key)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        _remove_leftovers(folder)
        handle, name = mkstemp(prefix=_STAGED_PREFIX, suffix=_STAGED_SUFFIX, dir=folder)
        fcntl.flock(handle, fcntl.LOCK_EX)  # held to the end: by it the next registration knows that somebody owns the file
    staged = Path(name)
    try:
        read_checkpoint(file)  # nothing is copied that is no model, or endless
        shutil.copyfile(file, staged)  # what is read below is what is kept, whatever happens to the original
        checkpoint = read_checkpoint(staged)
        began = training_began if training_began is not None else _recorded_start(checkpoint)
        data = _one(checkpoint.training_data_sha256, training_data_sha256, "the training set")
        with FileLock(folder / ".lock"):
            known = _read(folder / f"{checkpoint.sha256}.json")
            candidate = Candidate(
                sha256=checkpoint.sha256,
                config=config.key,
                file=f"{checkpoint.sha256}{SUFFIXES.get(checkpoint.format, file.suffix)}",
                bytes=checkpoint.bytes,
                facts=Facts.model_validate(checkpoint.to_dict()),
                registered_at=known.registered_at if known else time.time(),
                registered_by=known.registered_by if known else who,
                origin=known.origin if known else origin,
                training_data_sha256=_one(known and known.training_data_sha256, data, "the training set"),
                training_began=_one(known and known.training_began, began, "the beginning of training"),
                metrics={**(known.metrics if known else {}), **(metrics or {})},
            )
            target = folder / candidate.file
            if not target.exists() or file_sha256(target) != candidate.sha256:
                publish(staged, target)
            if candidate != known:
                record = folder / f".{candidate.sha256}.json.part"
                record.write_text(candidate.model_dump_json(indent=2) + "\n")
                publish(record, folder / f"{candidate.sha256}.json")
        return candidate
    finally:
        staged.unlink(missing_ok=True)
        os.close(handle)


def _remove_leftovers(folder: Path) -> None:
    """Remove what registrations that were killed had staged; what one that goes on has is locked. The folder's lock is held."""
    for path in folder.glob(f"{_STAGED_PREFIX}*{_STAGED_SUFFIX}"):
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
        except BlockingIOError:
            continue
        finally:
            os.close(handle)


def unreadable_records(home: Home, config: str) -> list[Path]:
    """Records of candidates of a config that cannot be read: these are no candidates until they are registered again."""
    return sorted(path for path in directory(home, config).glob("[0-9a-f]*.json") if _read(path) is None)


def candidates(home: Home, config: str) -> list[Candidate]:
    """The candidates of a config, the last registered first. Those of `unreadable_records` are left out."""
    known = (_read(path) for path in directory(home, config).glob("[0-9a-f]*.json"))
    return sorted((entry for entry in known if entry is not None), key=lambda entry: (-entry.registered_at, entry.sha256))


def find(home: Home, prefix: str, config: str | None = None) -> Candidate:
    """The candidate whose hash begins so. Raises UnknownCandidate."""
    if len(prefix) < MIN_PREFIX:
        raise UnknownCandidate(f"{prefix!r} is too short: give at least {MIN_PREFIX} characters of the candidate's hash")
    configs = CONFIG_KEYS if config is None else (config,)
    matches = [entry for key in configs for entry in candidates(home, key) if entry.sha256.startswith(prefix.lower())]
    where = f" of {config}" if config else ""
    if not matches:
        raise UnknownCandidate(f"no candidate{where} begins with {prefix}: `ringrift-data models list` shows all")
    if len(matches) > 1:
        names = ", ".join(f"{entry.sha256[:16]} ({entry.config})" for entry in matches[:4])
        raise UnknownCandidate(f"{prefix} is ambiguous: {names}; give more characters, or --config")
    return matches[0]


def qualify(home: Home, candidate: Candidate, *, max_data_age: float = MAX_DATA_AGE) -> Qualification:
    """Look up what a candidate was trained on, and collect what disqualifies it. The file is read and hashed."""
    path = directory(home, candidate.config) / candidate.file
    data = training_set(home, candidate.training_data_sha256) if candidate.training_data_sha256 else None
    config = parse_config(candidate.config)
    problems = [
        *_damage(path, candidate),
        *_misfits(candidate.facts, config),
        *_provenance(candidate, data),
        *_age(candidate, data, max_data_age),
    ]
    return Qualification(candidate, path, data, tuple(problems))


def _damage(path: Path, candidate: Candidate) -> Iterator[Problem]:
    try:
        checkpoint = read_checkpoint(path)
    except CheckpointRefused as refusal:
        yield Problem("file_damaged", f"{path.name}: {refusal}")
        return
    if checkpoint.sha256 != candidate.sha256:
        yield Problem("file_damaged", f"{path.name} has other bytes than were registered")
    elif Facts.model_validate(checkpoint.to_dict()) != candidate.facts:
        yield Problem("file_damaged", f"the record of {candidate.sha256[:12]} says something else than the file")
    elif checkpoint.training_data_sha256 not in (None, candidate.training_data_sha256):
        yield Problem("provenance_unknown", "the record has another training set than the file")


def _misfits(facts: Facts, config: Config) -> Iterator[Problem]:
    if not facts.format.startswith("torch"):
        yield Problem("format_unsupported", f"the file is {facts.format}: save the state dict with torch")
    board = BOARD_FACTS[config.board]
    if facts.config != config.key:
        yield Problem("config_mismatch", f"the file says {facts.config or 'nothing'}, it is registered for {config.key}")
    channels = [number for number in (board.channels, board.legacy_channels) if number]
    if facts.in_channels not in channels:
        yield Problem("channels_mismatch", f"{facts.in_channels or 'unknown'} planes, {config.key} has {_either(channels)}")
    sizes = [number for number in (board.policy_size, board.spatial_policy_size) if number]
    if facts.policy_size not in sizes:
        yield Problem("policy_mismatch", f"policy of {facts.policy_size or 'unknown size'}, {config.key} has {_either(sizes)}")


def _provenance(candidate: Candidate, data: TrainingSet | None) -> Iterator[Problem]:
    if candidate.training_data_sha256 is None:
        yield Problem("provenance_unknown", "no training set is recorded: register it with --training-data")
        return
    short = candidate.training_data_sha256[:12]
    if data is None:
        yield Problem("provenance_unknown", f"training set {short} was not exported from the canonical games of this home")
        return
    if data.config != candidate.config:
        yield Problem("config_mismatch", f"training set {short} is of {data.config}, the candidate of {candidate.config}")
    facts = candidate.facts
    expected = encoding(parse_config(candidate.config)).encoder_type
    if (facts.encoder is not None and facts.encoder != data.encoder) or data.encoder != expected:
        yield Problem("encoder_mismatch", f"the model has encoder {facts.encoder}, training set {short} {data.encoder}")
    if facts.feature_version is not None and facts.feature_version != data.feature_version:
        yield Problem(
            "encoder_mismatch", f"feature version {facts.feature_version} in the model, {data.feature_version} in {short}"
        )


def _age(candidate: Candidate, data: TrainingSet | None, limit: float) -> Iterator[Problem]:
    if candidate.training_began is None:
        yield Problem("training_time_unknown", "when training began is not recorded: register it with --training-began")
        return
    if data is None:
        return  # said by provenance_unknown
    if data.newest_game is None:
        yield Problem("stale_data", "the training set does not say when its newest game was played")
        return
    age = candidate.training_began - data.newest_game.timestamp()
    if age < -CLOCK_TOLERANCE or candidate.training_began > time.time() + CLOCK_TOLERANCE:
        yield Problem("training_time_unknown", "training is said to have begun before the newest game was played, or in the future")
    if age > limit:
        yield Problem(
            "stale_data", f"the newest game was {age / 3600:.0f} hours old when training began; the limit is {limit / 3600:g}"
        )


def _either(numbers: Sequence[int]) -> str:
    return " or ".join(map(str, numbers))


def _one(recorded: Any, given: Any, what: str) -> Any:
    """The value of two sources that agree, or of the one that has it."""
    if recorded is not None and given is not None and recorded != given:
        raise RegistrationRefused(f"{what} is recorded as {str(recorded)[:12]}, given as {str(given)[:12]}: one of them is wrong")
    return given if recorded is None else recorded


def _recorded_start(checkpoint: Checkpoint) -> float | None:
    """When training began according to the file's metadata; None for what no record takes."""
    info = checkpoint.metadata.get("training_info")
    value = info.get("started_at") if isinstance(info, dict) else None
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
            value = moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
        except (ValueError, OverflowError):
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 < value < 1e11 else None


def _read(path: Path) -> Candidate | None:
    """The record in a file; None if it cannot be read, or stands under another hash or config than its own."""
    try:
        with open_regular(path) as file:
            candidate = Candidate.model_validate_json(file.read(MAX_RECORD_BYTES))
    except (NpzError, OSError, ValidationError):
        return None
    return candidate if (candidate.sha256, candidate.config) == (path.stem, path.parent.name) else None

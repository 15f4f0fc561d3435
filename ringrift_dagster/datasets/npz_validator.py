"""Is this NPZ a training set RingRift can train on, and does it say the truth about itself?

`inspect_npz` answers with a report: every defect has a code from `ERROR_CODES`, and what a valid file must look like stands in the
two tables below. Bytes come from `npz_reader`, object arrays from `object_arrays`, what is wrong with policy rows from
`policy_rows`; nothing is unpickled, and of a sample no more than a few bytes are kept. Where a dataset came from, and whether its
games are canonical, is not judged here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ringrift_dagster.datasets.encoders import BOARD_FACTS, BoardFacts
from ringrift_dagster.datasets.npz_reader import (
    ArrayHeader,
    NpzArchive,
    NpzError,
    Unreadable,
    file_digest,
    open_regular,
)
from ringrift_dagster.datasets.object_arrays import HostilePickle, ObjectArray, ObjectArrayError, OversizePickle
from ringrift_dagster.datasets.policy_rows import Counts, PolicyIndices, PolicyValues, Tally
from ringrift_dagster.games.config import CONFIG_KEYS, UnknownConfig, parse_config

ERROR_CODES: Final = (
    "unreadable",  # no such file, or not permitted
    "not_a_zip",  # not an archive, or cut off
    "hostile_archive",  # odd member names, duplicates, overlaps, a compression bomb
    "oversize",  # more data than any training set has
    "crc_mismatch",  # a member's bytes are damaged
    "corrupt_array",  # a member is not a `.npy` array, or contradicts its own header
    "hostile_pickle",  # an object array that asks for code
    "missing_array",
    "wrong_dtype",
    "wrong_shape",
    "channel_mismatch",  # features have another number of planes than the board's encoder
    "config_mismatch",  # board and arrays belong to different configs, or samples mix player counts
    "unknown_config",
    "length_mismatch",  # arrays disagree about the number of samples, or policy rows about theirs
    "non_finite",
    "value_out_of_range",
    "policy_out_of_range",
    "policy_not_normalised",
    "policy_encoding",  # labels of the legacy encoding
    "bad_metadata",  # a scalar contradicts the arrays, or cannot be read
    "checksum_mismatch",
    "manifest_mismatch",
    "empty_dataset",
)


HISTORY_LENGTH: Final = 3
POLICY_ENCODING: Final = "board_aware"


@dataclass(frozen=True)
class ArrayFacts:
    """How one array must look. `row` is the shape behind the sample axis; None stands for any size."""

    dtype: str
    row: tuple[int | None, ...] | None = ()
    required: bool = False
    finite: bool = False
    """Whether a NaN or infinity is an error (in what training reads) or only worth a warning."""
    bound: float | None = None

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether `shape`, sample axis included, is allowed."""
        if self.row is None:
            return 1 <= len(shape) <= 2
        return len(shape) == len(self.row) + 1 and all(
            wanted in (None, size) for wanted, size in zip(self.row, shape[1:], strict=True)
        )

    def shape_text(self) -> str:
        """The allowed shape, for people."""
        row = ("rows",) if self.row is None else self.row
        return f"({', '.join(['samples', *('any' if size is None else str(size) for size in row)])})"


ARRAY_FACTS: Final = {
    "features": ArrayFacts("float32", (None, None, None), required=True, finite=True),
    "globals": ArrayFacts("float32", (20,), required=True, finite=True),
    "values": ArrayFacts("float32", required=True, finite=True, bound=1.0),
    "policy_indices": ArrayFacts("object", None, required=True),
    "policy_values": ArrayFacts("object", None, required=True),
    "num_players": ArrayFacts("int32", required=True),
    "values_mp": ArrayFacts("float32", (4,), finite=True, bound=1.0),
    "move_numbers": ArrayFacts("int32"),
    "total_game_moves": ArrayFacts("int32"),
    "phases": ArrayFacts("object"),
    "move_types": ArrayFacts("object"),
    "victory_types": ArrayFacts("object"),
    "engine_modes": ArrayFacts("object"),
    "opponent_types": ArrayFacts("object"),
    "opponent_elo": ArrayFacts("float32"),
    "generator_elo": ArrayFacts("float32"),
    "quality_score": ArrayFacts("float32"),
    "sample_weights": ArrayFacts("float32", finite=True),
    "heuristics": ArrayFacts("float32", (None,), finite=True),
}
REQUIRED_SCALARS: Final = ("board_type",)
VALUE_TOLERANCE: Final = 1e-6
MAX_SAMPLES: Final = 100_000_000
MAX_SCALAR_BYTES: Final = 1 << 20
MAX_MANIFEST_BYTES: Final = 16 << 20


@dataclass(frozen=True)
class Finding:
    """One defect or remark: `code` for machines, `detail` one line for people."""

    code: str
    detail: str


@dataclass
class NpzReport:
    """What `inspect_npz` found; `config`, `samples` and the like are None if the file does not tell them."""

    path: Path
    errors: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    config: str | None = None
    samples: int | None = None
    sha256: str | None = None
    bytes: int | None = None
    arrays: dict[str, dict[str, Any]] = field(default_factory=dict)
    encoder: str | None = None
    policy_size: int | None = None
    value_targets: str | None = None
    newest_game_time: str | None = None
    export_version: str | None = None
    manifest: bool = False

    @property
    def valid(self) -> bool:
        """Whether a training job may read the file."""
        return not self.errors

    @property
    def codes(self) -> frozenset[str]:
        """The distinct error codes."""
        return frozenset(finding.code for finding in self.errors)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-able values."""
        return {
            "valid": self.valid,
            "errors": [vars(finding).copy() for finding in self.errors],
            "warnings": [vars(finding).copy() for finding in self.warnings],
            "config": self.config,
            "samples": self.samples,
            "sha256": self.sha256,
            "bytes": self.bytes,
            "arrays": self.arrays,
            "encoder": self.encoder,
            "policy_size": self.policy_size,
            "value_targets": self.value_targets,
            "newest_game_time": self.newest_game_time,
            "export_version": self.export_version,
            "manifest": self.manifest,
        }


def inspect_npz(path: Path, *, manifest: bool = True) -> NpzReport:
    """Read the whole file once and report everything that is wrong with it; never raises for a bad file.

    With `manifest`, the `<stem>.manifest.json` beside it, if there is one, must agree with it.
    """
    report = NpzReport(path)
    try:
        with open_regular(path) as file:
            report.bytes, report.sha256 = file_digest(file)
            with NpzArchive(file) as archive:
                _Inspection(archive, report).run()
    except NpzError as error:
        report.errors.append(Finding(error.code, str(error)))
    except OSError as error:
        report.errors.append(Finding(Unreadable.code, f"{path}: {error.strerror or error}"))
    except (MemoryError, RecursionError) as error:
        report.errors.append(Finding(Unreadable.code, _exhausted(error)))
    if manifest and report.sha256 is not None:
        _check_manifest(report)
    return report


_CHECKSUM_ITEMS = 1 << 16


def checksum_start(dtype: np.dtype[Any], shape: tuple[int, ...]) -> hashlib._Hash:
    """RingRift's array checksum begins with the shape and dtype as Python prints them; the data follows."""
    return hashlib.sha256(str(shape).encode() + str(dtype).encode())


def checksum_objects(array: ObjectArray) -> str:
    """RingRift's checksum of an object array: each item's bytes if it is an array, else its text."""
    digest = checksum_start(array.dtype, array.shape)
    items = array.ravel().tolist()
    for start in range(0, len(items), _CHECKSUM_ITEMS):
        digest.update(_checksum_content(items[start : start + _CHECKSUM_ITEMS]))
    return digest.hexdigest()


def _checksum_content(items: list[Any]) -> bytes:
    return b"".join([item.tobytes() if isinstance(item, np.ndarray) else str(item).encode() for item in items])


class _Inspection:
    """One pass over an open archive, filling a report."""

    def __init__(self, archive: NpzArchive, report: NpzReport) -> None:
        self.archive = archive
        self.report = report
        self.headers: dict[str, ArrayHeader] = {}
        self.scalars: dict[str, Any] = {}
        self.digests: dict[str, str] = {}
        self.checksums: dict[str, str] = {}
        self.board: BoardFacts | None = None
        self.indices: PolicyIndices | None = None
        self.values: PolicyValues | None = None
        self.player_counts: set[int] = set()

    def error(self, code: str, detail: str) -> None:
        self.report.errors.append(Finding(code, detail))

    def warn(self, code: str, detail: str) -> None:
        self.report.warnings.append(Finding(code, detail))

    @contextmanager
    def guarded(self, name: str) -> Iterator[None]:
        """Record why one array cannot be read, and go on with the others."""
        try:
            yield
        except NpzError as error:
            self.error(error.code, str(error))
        except HostilePickle as error:
            self.error("hostile_pickle", f"{name}: {error}")
        except OversizePickle as error:
            self.error("oversize", f"{name}: {error}")
        except (ObjectArrayError, ValueError) as error:
            self.error("corrupt_array", f"{name}: {error}")
        except (MemoryError, RecursionError) as error:
            self.error(Unreadable.code, f"{name}: {_exhausted(error)}")

    def run(self) -> None:
        self.read_headers()
        self.read_scalars()
        self.check_structure()
        self.check_board()
        for header in self.headers.values():
            if header.shape:
                with self.guarded(header.name):
                    self.scan(header)
        self.check_policy()
        self.check_config()
        self.check_metadata()
        self.check_checksums()

    def read_headers(self) -> None:
        for name in self.archive.names:
            with self.guarded(name):
                header = self.archive.header(name)
                self.headers[name] = header
                self.report.arrays[name] = {"dtype": str(header.dtype), "shape": list(header.shape)}

    def read_scalars(self) -> None:
        """Read every 0-d array; `data_checksums` decides which other arrays are hashed."""
        for name, header in self.headers.items():
            if header.shape:
                continue
            if header.size > MAX_SCALAR_BYTES:
                self.error("bad_metadata", f"{name} is a single value of {header.size} bytes")
                continue
            with self.guarded(name):
                if header.is_object:
                    array = self.archive.object_array(header)
                    self.digests[name] = checksum_objects(array)
                else:
                    array = next(self.archive.blocks(header))
                    digest = checksum_start(header.dtype, header.shape)
                    digest.update(array.tobytes())
                    self.digests[name] = digest.hexdigest()
                value = array.item()
                if isinstance(value, np.ndarray):
                    self.error("bad_metadata", f"{name} is an array within an array, expected one value")
                else:
                    self.scalars[name] = value
        listed = self.scalars.get("data_checksums")
        if listed is not None:
            try:
                parsed = json.loads(listed)
            except (TypeError, ValueError, RecursionError):
                parsed = None
            if isinstance(parsed, dict):
                self.checksums = parsed
            else:
                self.error("bad_metadata", "data_checksums is not a JSON object")

    def check_structure(self) -> None:
        """Presence, dtypes, shapes and the number of samples, from headers alone."""
        present = set(self.archive.names)
        for name in (*REQUIRED_SCALARS, *(name for name, facts in ARRAY_FACTS.items() if facts.required)):
            if name not in present:
                self.error("missing_array", f"there is no {name}")
        rows = {name: header.shape[0] for name, header in self.headers.items() if header.shape}
        samples = next((rows[name] for name in ARRAY_FACTS if name in rows), None)
        self.report.samples = samples
        if samples == 0:
            self.error("empty_dataset", "there are no samples")
        if samples is not None and samples > MAX_SAMPLES:
            self.error("oversize", f"{samples} samples; at most {MAX_SAMPLES} are plausible")
        for name, count in rows.items():
            if count != samples:
                self.error("length_mismatch", f"{name} has {count} rows for {samples} samples")
        for name, facts in ARRAY_FACTS.items():
            header = self.headers.get(name)
            if header is None:
                continue
            if str(header.dtype) != facts.dtype:
                self.error("wrong_dtype", f"{name} is {header.dtype}, expected {facts.dtype}")
            if not facts.fits(header.shape):
                self.error("wrong_shape", f"{name} has shape {header.shape}, expected {facts.shape_text()}")
        for name in REQUIRED_SCALARS:
            if name in self.headers and self.headers[name].shape:
                self.error("wrong_shape", f"{name} is an array, expected one value")

    def check_board(self) -> None:
        """The board the file names against the planes it holds; sets `board` only if they fit each other."""
        board_type = self.scalars.get("board_type")
        if not isinstance(board_type, str) or board_type not in BOARD_FACTS:
            if "board_type" in self.scalars:
                known = ", ".join(BOARD_FACTS)
                self.error("unknown_config", f"board_type {_shown(board_type)} is none of {known}")
            return
        facts = BOARD_FACTS[board_type]
        features = self.headers.get("features")
        if features is not None and len(features.shape) == 4:
            _, channels, *plane = features.shape
            if plane != [facts.spatial_size] * 2:
                fitting = [name for name, each in BOARD_FACTS.items() if plane == [each.spatial_size] * 2]
                belongs = f"which belong to {fitting[0] if fitting else 'no board'}"
                planes = f"{plane[0]}x{plane[1]} planes"
                self.error(
                    "config_mismatch" if fitting else "wrong_shape",
                    f"board_type is {board_type}, but features have {planes}, {belongs}",
                )
                return
            self.check_channels(board_type, facts, channels)
        self.board = facts

    def check_channels(self, board_type: str, facts: BoardFacts, channels: int) -> None:
        versions = [str(self.scalars.get(name, "")) for name in ("encoder_version", "encoder_type")]
        if channels == facts.channels:
            if self.scalars.get("in_channels", channels) != channels:
                self.error("bad_metadata", f"in_channels is {self.scalars['in_channels']}, features have {channels}")
        elif channels == facts.legacy_channels and versions[0] == "v2":
            self.warn("legacy_encoder", f"{channels} planes of the {facts.encoder} v2 encoder")
        else:
            said = ", ".join(version for version in versions if version) or "nothing"
            self.error(
                "channel_mismatch",
                f"features have {channels} planes, {board_type} has {facts.channels} (encoder: {said})",
            )

    def scan(self, header: ArrayHeader) -> None:
        """Read one array to its end: checksum, damage, and every value."""
        if header.is_object:
            self.scan_objects(header)
        else:
            self.scan_numbers(header)

    def scan_numbers(self, header: ArrayHeader) -> None:
        facts = ARRAY_FACTS.get(header.name, ArrayFacts(str(header.dtype)))
        digest = checksum_start(header.dtype, header.shape) if header.name in self.checksums else None
        non_finite, outside = Tally(), Tally()
        start = 0
        for block in self.archive.blocks(header):
            if digest is not None:
                digest.update(block.view(np.uint8).data)
            if block.dtype.kind == "f":
                finite = _finite(block)
                if finite is not None:
                    non_finite.add(~finite, start)
                if facts.bound is not None:
                    with np.errstate(invalid="ignore"):
                        outside.add((np.abs(block) > facts.bound + VALUE_TOLERANCE) & np.isfinite(block), start)
            elif header.name == "num_players":
                self.player_counts.update(np.unique(block).tolist())
            start += len(block)
        if digest is not None:
            self.digests[header.name] = digest.hexdigest()
        if non_finite.count:
            report = self.error if facts.finite else self.warn
            report(
                "non_finite",
                f"{header.name}: {non_finite.count} values are NaN or infinite, {non_finite.where}",
            )
        if outside.count:
            detail = f"{outside.count} values are outside [-{facts.bound:g}, {facts.bound:g}], {outside.where}"
            self.error("value_out_of_range", f"{header.name}: {detail}")

    def scan_objects(self, header: ArrayHeader) -> None:
        name = header.name
        digest = checksum_start(header.dtype, header.shape) if name in self.checksums else None
        size = self.board.policy_size if self.board is not None else None
        policy = {"policy_indices": PolicyIndices(size), "policy_values": PolicyValues()}.get(name)
        kinds: set[type] = set()
        problem = None
        for block in self.archive.object_blocks(header):
            if digest is not None:
                digest.update(_checksum_content(block))
            if policy is None:
                kinds.update(map(type, block))
            elif problem is None:
                try:
                    policy.add(block, header.shape)
                except (TypeError, ValueError) as error:
                    problem = str(error)
        if digest is not None:
            self.digests[name] = digest.hexdigest()
        if problem is not None:
            self.error("wrong_dtype", f"{name}: {problem}")
        elif isinstance(policy, PolicyIndices):
            self.indices = policy
        elif isinstance(policy, PolicyValues):
            self.values = policy
        elif name in ARRAY_FACTS and ARRAY_FACTS[name].dtype == "object" and (other := kinds - {str}):
            self.error("wrong_dtype", f"{name} holds {other.pop().__name__}, expected text")

    def check_policy(self) -> None:
        indices, values = self.indices, self.values
        if indices is not None and indices.size is not None:
            if indices.outside:
                where = f"first {indices.worst} in sample {indices.worst_sample}"
                self.error("policy_out_of_range", f"{indices.outside} indices are outside 0..{indices.size - 1}, {where}")
            elif indices.largest is not None:
                self.check_max_index(indices.largest)
        if indices is not None and values is not None and indices.samples == values.samples:
            self.check_lengths(indices.lengths(), values.lengths())
        if values is not None:
            self.check_probabilities(values)

    def check_lengths(self, indices: Counts, values: Counts) -> None:
        uneven = np.flatnonzero(indices != values)
        if uneven.size:
            first = int(uneven[0])
            counts = f"{indices[first]} indices and {values[first]} values"
            self.error("length_mismatch", f"{uneven.size} policy rows are uneven, first sample {first}: {counts}")

    def check_max_index(self, largest: int) -> None:
        said = self.scalars.get("max_policy_index")
        if said is not None and (type(said) is not int or said < largest):
            self.error("bad_metadata", f"max_policy_index is {_shown(said)}, but index {largest} occurs")

    def check_probabilities(self, values: PolicyValues) -> None:
        if values.broken.count:
            detail = f"{values.broken.count} probabilities are NaN or infinite, {values.broken.where}"
            self.error("non_finite", f"policy_values: {detail}")
        if values.wrong.count:
            detail = f"{values.wrong.count} samples, first {values.wrong.first} with sum {values.wrong_sum:.6g}"
            self.error("policy_not_normalised", f"policies are negative or do not sum to 1: {detail}")

    def check_config(self) -> None:
        """One board and one number of players make a config; its name must not contradict the file's."""
        if len(self.player_counts) > 1:
            shown = ", ".join(map(str, sorted(self.player_counts)[:5]))
            self.error("config_mismatch", f"samples of games with {shown} players are mixed")
        elif self.player_counts and self.board is not None:
            key = f"{self.scalars['board_type']}_{next(iter(self.player_counts))}p"
            if key not in CONFIG_KEYS:
                self.error("unknown_config", f"{key} is not a RingRift config")
                return
            self.report.config = key
            try:
                named = parse_config(self.report.path.stem).key
            except UnknownConfig:
                return
            if named != key:
                self.warn("name_mismatch", f"the file is named after {named}, but holds {key}")

    def check_metadata(self) -> None:
        """The values a file states about itself against what it holds."""
        scalars, report = self.scalars, self.report
        encoder = scalars.get("encoder_type", scalars.get("encoder_version"))
        report.encoder = encoder if isinstance(encoder, str) else None
        version = scalars.get("export_version")
        report.export_version = version if isinstance(version, str) else None
        encoding = scalars.get("policy_encoding")
        if encoding != POLICY_ENCODING:
            self.error("policy_encoding", f"policy_encoding is {_shown(encoding)}, expected {POLICY_ENCODING!r}")
        if self.board is not None:
            size = scalars.get("policy_size", self.board.policy_size)
            report.policy_size = size if type(size) is int else None
            for name, expected in (
                ("board_size", self.board.spatial_size),
                ("spatial_size", self.board.spatial_size),
                ("policy_size", self.board.policy_size),
                ("history_length", HISTORY_LENGTH),
            ):
                if scalars.get(name, expected) != expected:
                    self.error("bad_metadata", f"{name} is {_shown(scalars[name])}, expected {expected}")
            kind = scalars.get("encoder_type", self.board.encoder)
            if not str(kind).startswith(self.board.encoder):
                self.error("bad_metadata", f"encoder_type is {_shown(kind)} for {scalars['board_type']}")
        metadata = scalars.get("metadata")
        if isinstance(metadata, dict):
            newest = metadata.get("newest_game_time")
            report.newest_game_time = newest if isinstance(newest, str) else None
            stated = metadata.get("sample_count", report.samples)
            if isinstance(stated, np.ndarray) or stated != report.samples:
                detail = f"metadata speaks of {_shown(stated)} samples, the arrays have {report.samples}"
                self.warn("sample_count_differs", detail)
        elif metadata is not None:
            self.error("bad_metadata", f"metadata is a {type(metadata).__name__}, expected a dict")

    def check_checksums(self) -> None:
        if "data_checksums" not in self.archive.names:
            self.warn("no_checksums", "the file carries no checksums of its arrays")
            return
        absent = [name for name in self.checksums if name not in self.archive.names]
        if absent:
            self.error("checksum_mismatch", f"checksums are listed for arrays that are not there: {_listed(absent)}")
        stale = [name for name, digest in self.digests.items() if self.checksums.get(name, digest) != digest]
        if stale:
            self.error("checksum_mismatch", f"checksums were made of other contents of {_listed(stale)}")
        unlisted = sorted(set(self.archive.names) - set(self.checksums) - {"data_checksums"})
        if unlisted and self.checksums:
            self.warn("no_checksums", f"no checksum is listed for {_listed(unlisted)}")


def _finite(block: npt.NDArray[Any]) -> npt.NDArray[np.bool_] | None:
    """Which values are finite, or None if all are: the sum, which any NaN or infinity spoils, tells first."""
    with np.errstate(all="ignore"):
        if np.isfinite(block.sum()):
            return None
    return np.isfinite(block)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(repr(name[:40]) for name in names[:6]) + more


def _exhausted(error: BaseException) -> str:
    return "there is not enough memory to read it" if isinstance(error, MemoryError) else "it is nested too deeply to be read"


def _shown(value: object) -> str:
    return repr(value)[:60]


def _check_manifest(report: NpzReport) -> None:
    """Compare `<stem>.manifest.json` with the file beside it; one that cannot be read vouches for nothing."""
    path = report.path.with_suffix(".manifest.json")
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_MANIFEST_BYTES + 1)
    except FileNotFoundError:
        return
    except OSError as error:
        report.errors.append(Finding("manifest_mismatch", f"{path.name}: {error.strerror or error}"))
        return
    report.manifest = True
    try:
        stated = json.loads(raw) if len(raw) <= MAX_MANIFEST_BYTES else None
    except (ValueError, RecursionError):
        stated = None
    if not isinstance(stated, dict):
        report.errors.append(Finding("manifest_mismatch", f"{path.name} is not a JSON object of plausible size"))
        return
    targets = stated.get("value_targets")
    report.value_targets = targets if isinstance(targets, str) else None
    for name, actual in (("sha256", report.sha256), ("samples", report.samples), ("config", report.config)):
        if name not in stated:
            report.errors.append(Finding("manifest_mismatch", f"{path.name} does not state {name}"))
        elif actual is not None and stated[name] != actual:
            detail = f"{name} is {_shown(stated[name])} in {path.name}, the file has {_shown(actual)}"
            report.errors.append(Finding("manifest_mismatch", detail))

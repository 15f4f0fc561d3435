"""Training sets as minibatches in any order, in memory that does not grow with the set.

An NPZ can only be read from front to back, and its policy targets only as pickles. So it is read once, without unpickling, into
temporary files without names, from which samples are taken one by one; they vanish with the process, however it ends. In memory
there is one block while reading, one batch afterwards, and about 30 bytes for each sample. What is learnt from a batch is for
`trainer`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from ringrift_dagster.ai.seeds import Generator, permutation
from ringrift_dagster.datasets.npz_reader import NpzArchive, NpzError, file_digest, open_regular
from ringrift_dagster.datasets.npz_validator import inspect_npz
from ringrift_dagster.datasets.object_arrays import ObjectArrayError
from ringrift_dagster.datasets.policy_rows import Counts, PolicyRows
from ringrift_dagster.games.config import Config, parse_config

FORCED_MOVES: Final = frozenset({"no_placement_action", "no_movement_action", "no_line_action", "no_territory_action"})
"""Moves that are legal only where nothing else is: there is nothing to learn from choosing them."""
SPARE_BYTES: Final = 256 << 20
"""What has to stay free on the disk."""

_NUMBERS: Final = ("features", "globals", "values", "values_mp")


class TrainingDataRefused(ValueError):
    """A training set that cannot be trained on; the message is one line that says why."""


@dataclass(frozen=True)
class Batch:
    """Some samples, n of them.

    Shapes: features (n, channels, size, size), global_vectors (n, 20), values (n,) for whoever is to move, seat_values (n, 4) by
    seat, or None where the set has none. The policy targets are listed: sample `owners[i]`, 0 to n - 1, gives move `moves[i]` the
    probability `probabilities[i]`.
    """

    features: NDArray[np.float32]
    global_vectors: NDArray[np.float32]
    values: NDArray[np.float32]
    seat_values: NDArray[np.float32] | None
    owners: NDArray[np.int64]
    moves: NDArray[np.int64]
    probabilities: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.values)

    def policy_weights(self) -> NDArray[np.float32]:
        """How much each sample's policy target counts, 0 to 1; shape (n,).

        What a search found counts fully. A move without a search's probabilities counts by how the game ended for who made it:
        fully for the winner, not at all for the last. So sets may have games of strong AIs against weak ones.
        """
        searched = np.bincount(self.owners, minlength=len(self)) > 1
        return np.where(searched, np.float32(1.0), (1.0 + self.values) / 2.0)

    def value_targets(self, players: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What each player's value should be, the mover's first, and 1 where it is known, else 0. Shapes: (n, players).

        A set does not say who is to move. With two players the other's value is the opposite; with more, the mover is whoever's
        value by seat is the mover's, and where several have it only the mover's is known.
        """
        targets = np.zeros((len(self), players), np.float32)
        known = np.zeros((len(self), players), np.float32)
        targets[:, 0] = self.values
        known[:, 0] = 1.0
        if players == 2:
            targets[:, 1] = -self.values
            known[:, 1] = 1.0
        elif self.seat_values is not None:
            by_seat = self.seat_values[:, :players]
            alike = by_seat == self.values[:, None]
            order = (alike.argmax(axis=1)[:, None] + np.arange(players)) % players
            unique = alike.sum(axis=1) == 1
            targets[unique] = np.take_along_axis(by_seat, order, axis=1)[unique]
            known[unique] = 1.0
        return targets, known


class TrainingSet:
    """A training set, open for random access; close it or use it as a context manager.

    `sha256` is of the file, `samples` counts what can be taken and `left_out` samples of forced moves, `games` has for every sample
    the number of its game, ascending, or is None if the file does not say where games begin.
    """

    def __init__(self, path: Path, directory: Path, *, decisions_only: bool = False) -> None:
        """Check and read a file. Raises TrainingDataRefused.

        The file has to pass `inspect_npz`, with the manifest beside it if there is one. Temporary files lie on the disk of
        `directory` and take what the uncompressed set takes. `decisions_only` leaves out samples of forced moves.
        """
        self._stack = ExitStack()
        try:
            self._open(path, directory, decisions_only)
        except (NpzError, ObjectArrayError, TypeError) as error:
            self.close()
            raise TrainingDataRefused(f"{path} was changed while it was read: {error}") from error
        except OSError as error:
            self.close()
            raise TrainingDataRefused(f"{path} cannot be read through {directory}: {error.strerror or error}") from error
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the temporary files, which ends them."""
        self._stack.close()

    def _open(self, path: Path, directory: Path, decisions_only: bool) -> None:
        report = inspect_npz(path)
        if not report.valid or report.config is None or report.samples is None or report.sha256 is None:
            reasons = "; ".join(f"{finding.code}: {finding.detail}" for finding in report.errors[:2]) or "its config is not known"
            raise TrainingDataRefused(f"{path} is no training set ({reasons}); see: ringrift-data inspect npz {path}")
        self.path, self.sha256 = path, report.sha256
        self.config: Config = parse_config(report.config)
        with open_regular(path) as file:
            with NpzArchive(file) as archive:
                keep = _decisions(archive, report.samples) if decisions_only else np.ones(report.samples, np.bool_)
                self._check_room(archive, directory, int(keep.sum()))
                self._columns = {name: self._numbers(archive, name, keep, directory) for name in _NUMBERS if name in archive.names}
                self._moves, lengths = self._policy(
                    archive, "policy_indices", _SpooledMoves(self._column(np.dtype(np.int32), (), directory))
                )
                self._probabilities, _ = self._policy(
                    archive, "policy_values", _SpooledProbabilities(self._column(np.dtype(np.float32), (), directory))
                )
                games = _games(archive)
            if file_digest(file)[1] != self.sha256:
                raise TrainingDataRefused(f"{path} was changed while it was read")
        self._starts = (np.cumsum(lengths, dtype=np.int64) - lengths)[keep]
        self._lengths = lengths[keep]
        self.games = None if games is None else games[keep]
        self.samples = int(keep.sum())
        self.left_out = report.samples - self.samples
        if not self.samples:
            raise TrainingDataRefused(f"{path} has nothing but forced moves")

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Channels, and twice the size of the board's grid."""
        return self._columns["features"].row

    def split(self, share: float, state: Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Samples to train on and held-out ones, about `share` of all, of whole games where `games` is known.

        Of several games at least one is held out, unless the share is 0.
        """
        groups = np.arange(self.samples) if self.games is None else self.games
        numbers = np.unique(groups)
        count = max(round(share * len(numbers)), int(share > 0 and len(numbers) > 1))
        held = permutation(state, len(numbers))[:count]
        is_held = np.isin(groups, numbers[held])
        return np.flatnonzero(~is_held), np.flatnonzero(is_held)

    def batch(self, samples: NDArray[np.int64]) -> Batch:
        """These samples, in this order."""
        lengths = self._lengths[samples].astype(np.int64)
        numbers = {name: column.take(samples) for name, column in self._columns.items()}
        starts = self._starts[samples]
        return Batch(
            features=numbers["features"],
            global_vectors=numbers["globals"],
            values=numbers["values"],
            seat_values=numbers.get("values_mp"),
            owners=np.repeat(np.arange(len(samples)), lengths),
            moves=self._moves.take_runs(starts, lengths).astype(np.int64),
            probabilities=self._probabilities.take_runs(starts, lengths),
        )

    def batches(self, samples: NDArray[np.int64], size: int, state: Generator | None = None) -> Iterator[Batch]:
        """All of `samples` in batches of `size`, the last one smaller; shuffled by draws from `state`, else in their order."""
        order = samples if state is None else samples[permutation(state, len(samples))]
        for start in range(0, len(order), size):
            yield self.batch(order[start : start + size])

    def _check_room(self, archive: NpzArchive, directory: Path, samples: int) -> None:
        headers = [archive.header(name) for name in _NUMBERS if name in archive.names]
        needed = samples * sum(prod(header.shape[1:]) * header.dtype.itemsize for header in headers)
        free = shutil.disk_usage(directory).free
        if needed + SPARE_BYTES > free:
            raise TrainingDataRefused(
                f"{self.path} takes {needed >> 20:,} MB uncompressed, {directory} has {free >> 20:,} MB free: "
                "say where there is more with --work-dir"
            )

    def _numbers(self, archive: NpzArchive, name: str, keep: NDArray[np.bool_], directory: Path) -> _Column:
        header = archive.header(name)
        column = self._column(header.dtype, header.shape[1:], directory)
        start = 0
        for block in archive.blocks(header):
            column.append(block[keep[start : start + len(block)]])
            start += len(block)
        return column

    def _policy(self, archive: NpzArchive, name: str, rows: _SpooledRows) -> tuple[_Column, Counts]:
        """The entries of all policy rows, and how many every sample has."""
        header = archive.header(name)
        for block in archive.object_blocks(header):
            rows.add(block, header.shape)
        return rows.column, rows.lengths()

    def _column(self, dtype: np.dtype[Any], row: tuple[int, ...], directory: Path) -> _Column:
        file = self._stack.enter_context(tempfile.TemporaryFile(dir=directory, buffering=0))  # noqa: SIM115 - the stack is its context
        return _Column(file, dtype, row)


class _Column:
    """Rows of one dtype and shape in a file: appended in order, taken in any."""

    def __init__(self, file: IO[bytes], dtype: np.dtype[Any], row: tuple[int, ...]) -> None:
        self._file = file
        self.dtype = dtype
        self.row = row
        self._bytes = prod(row) * dtype.itemsize

    def append(self, rows: NDArray[Any]) -> None:
        data = np.ascontiguousarray(rows, dtype=self.dtype).data.cast("B") if rows.size else memoryview(b"")
        while data:
            data = data[self._file.write(data) :]

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """These rows, in this order."""
        return self._read(rows, np.ones(len(rows), np.int64)).reshape(len(rows), *self.row)

    def take_runs(self, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[Any]:
        """The rows from each start on, as many as its length says, one run after another."""
        return self._read(starts, lengths).reshape(-1, *self.row)

    def _read(self, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[Any]:
        out = np.empty(int(lengths.sum()) * self._bytes, np.uint8)
        into, descriptor, at = out.data, self._file.fileno(), 0
        for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
            end = at + length * self._bytes
            if os.preadv(descriptor, [into[at:end]], start * self._bytes) != end - at:
                raise OSError("a temporary file ended early")
            at = end
        return out.view(self.dtype)


class _SpooledRows(PolicyRows):
    """Policy rows, the entries of which go into a column."""

    def __init__(self, column: _Column) -> None:
        super().__init__()
        self.column = column

    def judge(self, entries: NDArray[Any], lengths: Counts) -> None:
        self.column.append(entries)


class _SpooledMoves(_SpooledRows):
    target = np.dtype(np.int64)


class _SpooledProbabilities(_SpooledRows):
    target = np.dtype(np.float64)


def _decisions(archive: NpzArchive, samples: int) -> NDArray[np.bool_]:
    """Which samples are of moves that were not forced; all where the set does not name its moves."""
    if "move_types" not in archive.names:
        return np.ones(samples, np.bool_)
    blocks = [
        np.fromiter((name not in FORCED_MOVES for name in block), np.bool_, len(block))
        for block in archive.object_blocks(archive.header("move_types"))
    ]
    return np.concatenate(blocks)


def _games(archive: NpzArchive) -> NDArray[np.int32] | None:
    """The number of every sample's game: one begins where move numbers stop to rise. None where there are none."""
    if "move_numbers" not in archive.names:
        return None
    numbers = np.concatenate(list(archive.blocks(archive.header("move_numbers"))))
    return np.concatenate([np.zeros(1, np.int32), np.cumsum(np.diff(numbers) <= 0, dtype=np.int32)])

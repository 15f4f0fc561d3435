"""Policy rows of a training set, judged block by block as they are read: which moves, how probable, and how many of each are wrong.

Of a sample only the lengths of its rows are kept. What is said about them, and under which code, is `npz_validator`'s business.
"""

from __future__ import annotations

from math import prod
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

POLICY_SUM_TOLERANCE: Final = 1e-3

Counts = npt.NDArray[np.int32]


class Tally:
    """How many values of an array are bad, and the first sample that has one."""

    def __init__(self) -> None:
        self.count = 0
        self.first = 0

    def add(self, bad: npt.NDArray[np.bool_], start: int) -> None:
        """Count a block's bad values; the block's first row is sample `start`."""
        found = int(np.count_nonzero(bad))
        if found and not self.count:
            row_size = bad.size // len(bad)
            self.first = start + int(np.argmax(bad.ravel())) // row_size
        self.count += found

    def add_at(self, rows: npt.NDArray[np.int64], start: int) -> None:
        """Count one bad value for each of the block's `rows`, which ascend."""
        if rows.size and not self.count:
            self.first = start + int(rows[0])
        self.count += rows.size

    @property
    def where(self) -> str:
        return f"first in sample {self.first}"


class PolicyRows:
    """Policy rows, block by block, in either form RingRift writes: (N, K) numbers, or (N,) arrays of any length.

    Of each sample only the length of its row is kept.
    """

    target: ClassVar[np.dtype[Any]]

    def __init__(self) -> None:
        self.samples = 0
        self._lengths: list[Counts] = []

    def lengths(self) -> Counts:
        """The number of entries of each sample."""
        return np.concatenate(self._lengths) if self._lengths else np.empty(0, np.int32)

    def add(self, block: list[Any], shape: tuple[int, ...]) -> None:
        """Take the next elements of an array of this shape. Raises TypeError for what is not a number of the right kind."""
        if len(shape) == 1:
            rows = [_row(item, self.target) for item in block]
            lengths = np.fromiter(map(len, rows), np.int32, len(rows))
            entries = np.concatenate(rows, dtype=self.target, casting="unsafe") if rows else np.empty(0, self.target)
        else:
            entries = _numbers(block, self.target)
            lengths = np.full(len(block) // prod(shape[1:]) if block else 0, prod(shape[1:]), np.int32)
        self.judge(entries, lengths)
        self._lengths.append(lengths)
        self.samples += len(lengths)

    def judge(self, entries: npt.NDArray[Any], lengths: Counts) -> None:
        """Look at the entries of the next samples."""
        raise NotImplementedError


class PolicyIndices(PolicyRows):
    """Which moves; `size` is how many the board has."""

    target = np.dtype(np.int64)

    def __init__(self, size: int | None) -> None:
        super().__init__()
        self.size = size
        self.outside = self.worst = self.worst_sample = 0
        self.largest: int | None = None

    def judge(self, entries: npt.NDArray[Any], lengths: Counts) -> None:
        """Count what is outside the board's policy."""
        if self.size is None or not entries.size:
            return
        largest = int(entries.max())
        self.largest = largest if self.largest is None else max(self.largest, largest)
        outside = np.flatnonzero((entries < 0) | (entries >= self.size))
        if outside.size and not self.outside:
            self.worst = int(entries[outside[0]])
            self.worst_sample = self.samples + int(np.searchsorted(np.cumsum(lengths), outside[0], side="right"))
        self.outside += outside.size


class PolicyValues(PolicyRows):
    """The probabilities of these moves."""

    target = np.dtype(np.float64)

    def __init__(self) -> None:
        super().__init__()
        self.broken = Tally()
        self.wrong = Tally()
        self.wrong_sum = 0.0

    def judge(self, entries: npt.NDArray[Any], lengths: Counts) -> None:
        """Count what is no probability, and the samples whose probabilities do not sum to 1."""
        if not len(lengths):
            return
        samples = np.repeat(np.arange(len(lengths)), lengths)
        broken = ~np.isfinite(entries)
        self.broken.add_at(samples[broken], self.samples)
        sums = np.bincount(samples, weights=entries, minlength=len(lengths))
        with np.errstate(invalid="ignore"):
            wrong = np.abs(sums - 1.0) > POLICY_SUM_TOLERANCE
        wrong[samples[entries < 0]] = True
        wrong[samples[broken]] = False
        found = np.flatnonzero(wrong)
        if found.size and not self.wrong.count:
            self.wrong_sum = float(sums[found[0]])
        self.wrong.add_at(found, self.samples)


def _row(item: Any, target: np.dtype[Any]) -> npt.NDArray[Any]:
    if not isinstance(item, np.ndarray):
        return _numbers(list(item) if isinstance(item, list | tuple) else [item], target)
    if item.ndim != 1 or item.dtype.kind not in ("iu" if target.kind == "i" else "fiu"):
        raise TypeError(f"a row is a {item.ndim}-d {item.dtype} array")
    return item


def _numbers(items: list[Any], target: np.dtype[Any]) -> npt.NDArray[Any]:
    allowed = (int, np.integer) if target.kind == "i" else (int, float, np.integer, np.floating)
    for kind in set(map(type, items)):
        if not issubclass(kind, allowed) or kind is bool:
            wanted = "an integer" if target.kind == "i" else "a number"
            raise TypeError(f"an entry is a {kind.__name__}, expected {wanted}")
    try:
        return np.array(items, target)
    except OverflowError:
        raise TypeError("an entry is too large for any policy") from None

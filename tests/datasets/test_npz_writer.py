"""The container: what is written is what numpy and the project's own reader load."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ringrift_dagster.datasets.npz_reader import NpzArchive
from ringrift_dagster.datasets.npz_validator import checksum_objects
from ringrift_dagster.datasets.npz_writer import NpzWriter, small_arrays


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_ragged_rows_are_read_back_and_cost_little_more_than_their_content(dtype: type[np.generic], tmp_path: Path) -> None:
    rows = [np.arange(n % 70, dtype=dtype) for n in range(2000)] + [np.arange(300, dtype=dtype)]
    path = tmp_path / "rows.npz"
    with path.open("wb") as file, NpzWriter(file) as writer:
        writer.objects("rows", (len(rows),), small_arrays(iter([rows[:7], [], rows[7:]])))
    with np.load(path, allow_pickle=True) as loaded:
        by_numpy = loaded["rows"]
    with path.open("rb") as file, NpzArchive(file) as archive:
        header = archive.header("rows")
        own = [row for block in archive.object_blocks(header) for row in block]
    for read in (by_numpy.tolist(), own):
        assert [row.dtype for row in read] == [row.dtype for row in rows]
        assert all(map(np.array_equal, read, rows))
    assert writer.checksums["rows"] == checksum_objects(by_numpy)
    assert header.size - sum(row.nbytes for row in rows) < 22 * len(rows) + 400


def test_ragged_rows_have_one_dtype() -> None:
    rows = [np.zeros(2, np.int32), np.zeros(2, np.float32)]
    with pytest.raises(ValueError, match="among"):
        list(small_arrays(iter([rows])))

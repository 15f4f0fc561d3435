"""Digest RingRift's own NPZ exports, so that tests can compare arrays without carrying the files.

    python tests/data/make_reference_digests.py OUT_DIR EXPORT.npz [EXPORT.npz ...]

Writes OUT_DIR/<stem>.json for each file: for every array its dtype and shape, and
- numeric and string arrays: `sha256` of the C-order bytes;
- object arrays: `sha256` of the values as one JSON list in C order, without spaces (a numpy row is a list);
- 0-d arrays: the `value` itself instead of a digest.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ringrift_dagster.datasets.npz_reader import ArrayHeader, NpzArchive, open_regular
from ringrift_dagster.datasets.object_arrays import ObjectArray


def digest_values(values: ObjectArray) -> str:
    """SHA-256 of an object array's values as a JSON list."""
    plain = [item.tolist() if isinstance(item, np.ndarray) else item for item in values.ravel().tolist()]
    return hashlib.sha256(json.dumps(plain, separators=(",", ":")).encode()).hexdigest()


def digest_array(archive: NpzArchive, header: ArrayHeader) -> dict[str, Any]:
    """The JSON entry of one array."""
    entry: dict[str, Any] = {"dtype": str(header.dtype), "shape": list(header.shape)}
    if not header.shape:
        value = archive.object_array(header) if header.is_object else next(archive.blocks(header))
        return {**entry, "value": value.item()}
    if header.is_object:
        return {**entry, "sha256": digest_values(archive.object_array(header))}
    digest = hashlib.sha256()
    for block in archive.blocks(header):
        digest.update(block.tobytes())
    return {**entry, "sha256": digest.hexdigest()}


def digest_file(path: Path) -> dict[str, Any]:
    """The entries of all arrays of a file, by name."""
    with open_regular(path) as file, NpzArchive(file) as archive:
        return {name: digest_array(archive, archive.header(name)) for name in archive.names}


def main(out: Path, exports: list[Path]) -> None:
    """Write one JSON file per export."""
    out.mkdir(parents=True, exist_ok=True)
    for path in exports:
        text = json.dumps(digest_file(path), indent=1)
        (out / f"{path.stem}.json").write_text(text + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(argument) for argument in sys.argv[2:]])

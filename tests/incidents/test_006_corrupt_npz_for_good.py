"""A corrupt local NPZ made training fail for good ("not a zip"): nothing noticed, nothing replaced it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ringrift_dagster.datasets.canonical_games import append_canonical
from ringrift_dagster.datasets.npz_export import export_canonical
from ringrift_dagster.datasets.npz_validator import inspect_npz
from ringrift_dagster.home import Home


@pytest.mark.parametrize("damage", ["cut", "garbage", "bit"])
def test_corruption_is_noticed_and_the_next_export_heals_it(damage: str, home: Home, recorded: Callable[[str], Path]) -> None:
    append_canonical("square8_4p", [recorded("canonical_square8_4p")], home)
    npz = export_canonical("square8_4p", home).path
    sound = npz.read_bytes()
    middle = len(sound) // 2
    flipped = sound[:middle] + bytes([sound[middle] ^ 0x10]) + sound[middle + 1 :]
    npz.write_bytes({"cut": sound[:middle], "garbage": b"no zip at all", "bit": flipped}[damage])
    report = inspect_npz(npz).to_dict()
    assert not report["valid"]
    assert report["errors"][0]["code"] in {"not_a_zip", "crc_mismatch", "manifest_mismatch", "corrupt_array"}
    export_canonical("square8_4p", home)
    assert inspect_npz(npz).to_dict()["valid"]

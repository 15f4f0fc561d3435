"""Discovery hung on 942 NPZ files, and an empty one ended it with EOFError: the same for the agent."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from pathlib import Path

from tests.agents import running_agent

SOUND = Path(__file__).parents[1] / "data" / "damaged" / "base_ok.npz"


def test_a_thousand_training_sets_of_which_most_are_cut_short_or_empty(tmp_path: Path) -> None:
    sound = SOUND.read_bytes()
    folder = tmp_path / "data/training"
    folder.mkdir(parents=True)
    for number in range(1000):
        cut = b"" if number % 2 == 0 else sound[: 1 + number * 37]
        (folder / f"square8_2p_{number:04d}.npz").write_bytes(sound if number % 100 == 0 else cut)
    with running_agent(tmp_path, "gpu-1") as agent:
        began = time.monotonic()
        told = agent.source().read(None, 60)
        while told.pending:
            told = agent.source().read(None, 60)
        assert time.monotonic() - began < 60
    assert told.full
    assert Counter(item.soundness for item in told.found) == {"SOUND": 10, "UNSOUND": 500}
    assert {item.sha256 for item in told.found if item.soundness == "SOUND"} == {hashlib.sha256(sound).hexdigest()}
    assert all(item.reason for item in told.found if item.soundness == "UNSOUND")
    assert Counter(each.reason for each in told.untracked) == {"empty": 490}

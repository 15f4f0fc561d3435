"""Copies of positions are complete: a field that is forgotten would corrupt searches and perft without a word."""

from __future__ import annotations

import numpy as np

from ringrift_dagster.games.position import POSITION, blank_position
from ringrift_dagster.games.rules.stacks import copy_position

SCRATCH = {"out", "seen"}


def test_a_copy_has_every_field_that_a_rule_reads() -> None:
    source, target = blank_position(), blank_position()
    names = POSITION.names or ()
    for number, name in enumerate(names, start=1):
        source[name] = number
    source.cells = len(source.height)
    source.height[:] = source.rings.shape[1]
    copy_position(source, target)
    different = {name for name in names if not np.array_equal(source[name], target[name])}
    assert different == SCRATCH

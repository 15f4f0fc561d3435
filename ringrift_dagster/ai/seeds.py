"""Seeds and random draws: the source of all random decisions of games and samples.

A *seed* is a path of words, such as `7/square8_2p/12/1/34/move`, hashed to 64 bits. A *generator* is an array of one uint64 word:
its state. Draws change it in place, compiled or not, with the same result on every platform and in every version of Python and
NumPy; `random` and `numpy.random` promise that for none of their samplers. Not for keys, tokens or ids: from one word
all later words can be computed. Sources: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014; constants of Vigna's splitmix64.c).
"""

from __future__ import annotations

import hashlib
from operator import index
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ringrift_dagster.games.rules.compiled import compiled

Generator: TypeAlias = NDArray[np.uint64]
"""One word of state, shape (1,)."""

SEPARATOR = "/"

_LOW = np.uint64(0xFFFFFFFF)
_MOST = np.uint64(0xFFFFFFFFFFFFFFFF)
_ONE, _32 = np.uint64(1), np.uint64(32)
_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SHIFT_1, _SHIFT_2, _SHIFT_3 = np.uint64(30), np.uint64(27), np.uint64(31)
_TO_53_BITS = np.uint64(11)
_PER_UNIT = 2.0**-53


def path_of(*words: str | int) -> str:
    """The words of a seed as one text, joined by `/`; an integer counts as its decimal digits.

    Different paths have different texts: a word is neither empty nor contains the separator (ValueError). Anything that is neither
    text nor an integer is a TypeError.
    """
    texts = [word if isinstance(word, str) else str(int(index(word))) for word in words]
    for text in texts:
        if not text or SEPARATOR in text:
            raise ValueError(f"a word of a seed is not empty and has no {SEPARATOR!r}: {text[:40]!r}")
    if not texts:
        raise ValueError("a seed needs at least one word")
    return SEPARATOR.join(texts)


def seed(*words: str | int) -> int:
    """The seed of a path, 0 to 2**64 - 1: the first eight bytes, big-endian, of the SHA-256 of its text in UTF-8.

    `printf 7/square8_2p/12 | sha256sum | head -c 16` gives the same in hexadecimal digits. The seed of a part is derived from its
    whole path, so that it does not depend on what else was drawn: game i has `seed(root, config, i)`, a decision in it
    `seed(root, config, i, player, move, purpose)`.
    """
    return int.from_bytes(hashlib.sha256(path_of(*words).encode()).digest()[:8], "big")


def generator(*words: str | int) -> Generator:
    """A new generator that starts from the seed of a path."""
    return from_seed(seed(*words))


def from_seed(value: int) -> Generator:
    """A new generator that starts from a recorded seed, 0 to 2**64 - 1."""
    return np.array([value], dtype=np.uint64)


@compiled
def _plus(a, b):
    """a + b modulo 2**64. NumPy's own scalars warn about the overflow that is meant here."""
    return a - (_MOST - b) - _ONE if a > _MOST - b else a + b


@compiled
def _times(a, b):
    """a * b modulo 2**64, in halves of 32 bits, of which no product or sum overflows."""
    low = (a & _LOW) * (b & _LOW)
    high = (low >> _32) + ((a >> _32) * (b & _LOW) & _LOW) + ((a & _LOW) * (b >> _32) & _LOW)
    return (high & _LOW) << _32 | low & _LOW


@compiled
def next_word(state):
    """The next 64 random bits, as uint64."""
    state[0] = _plus(state[0], _STEP)
    word = state[0]
    word = _times(word ^ word >> _SHIFT_1, _MIX_1)
    word = _times(word ^ word >> _SHIFT_2, _MIX_2)
    return word ^ word >> _SHIFT_3


@compiled
def below(state, bound):
    """An integer from 0 to `bound` - 1, all equally likely; `bound` is 1 to 2**63 - 1. Draws one word, seldom more.

    Words beyond the largest multiple of `bound` are rejected, so that the result is unbiased.
    """
    divisor = np.uint64(bound)
    surplus = (_MOST % divisor + _ONE) % divisor
    word = next_word(state)
    while word > _MOST - surplus:
        word = next_word(state)
    return np.int64(word % divisor)


@compiled
def fraction(state):
    """A float64 from 0 up to but not including 1: a multiple of 2**-53."""
    return np.float64(next_word(state) >> _TO_53_BITS) * _PER_UNIT


@compiled
def permutation(state, count):
    """The integers from 0 to `count` - 1 in an order of which all are equally likely (Fisher and Yates), as int64."""
    order = np.arange(count)
    for last in range(count - 1, 0, -1):
        chosen = below(state, last + 1)
        moved = order[chosen]
        order[chosen] = order[last]
        order[last] = moved
    return order

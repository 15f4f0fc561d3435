"""Reading model files without torch, beside hashing alone and beside torch where it is installed.

The file is a torch zip of 100 MB, made byte by byte as the tests make theirs: the values are noise, the structure is torch's.
"""

from __future__ import annotations

import hashlib
import importlib.util
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np

from ringrift_dagster.models.checkpoints.description import read_checkpoint
from tests.models.checkpoints.files import archive, storage, tensor, text

TENSORS: Final = 50
ELEMENTS: Final = 524_288
"""Numbers of 32 bits in a tensor."""
AIM_SECONDS: Final = 0.2
REPEATS: Final = 9


def large_file() -> bytes:
    """A model of TENSORS tensors, as `torch.save` writes one."""
    noise = np.random.default_rng(0).standard_normal(TENSORS * ELEMENTS, dtype=np.float32).reshape(TENSORS, ELEMENTS)
    entries = b"".join(
        text(f"layer{number}.weight") + tensor(storage(str(number), ELEMENTS), (ELEMENTS,)) + b"s" for number in range(TENSORS)
    )
    pickled = b"\x80\x02}" + text("model_state_dict") + b"}" + entries + b"s."
    return archive(pickled, storages={str(number): noise[number].tobytes() for number in range(TENSORS)})


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """The best and the median time of repeated calls, the first of which is not counted."""
    work()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times), sorted(times)[REPEATS // 2]


def run() -> Iterator[tuple[str, str, str]]:
    """All figures, as (name, here, beside)."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.pth"
        path.write_bytes(large_file())
        hashing = seconds(lambda: _sha256(path))
        reading = seconds(lambda: read_checkpoint(path))
        beside = f"aim {AIM_SECONDS} s; SHA-256 alone {hashing[0]:.3f} s"
        if importlib.util.find_spec("torch") is not None:
            loading = seconds(lambda: _torch_load(path))
            beside += f"; torch.load(weights_only=True) {loading[0]:.3f} s, without a hash"
        yield f"read {path.stat().st_size / 1e6:.0f} MB, best", f"{reading[0]:.3f} s", beside
        yield "the same, median", f"{reading[1]:.3f} s", f"SHA-256 alone {hashing[1]:.3f} s"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _torch_load(path: Path) -> object:
    import torch  # pyright: ignore[reportMissingImports]

    return torch.load(path, weights_only=True)

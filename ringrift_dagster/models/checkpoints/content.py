"""What a model file contains, in one form for all formats: named tensors and plain metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any


@dataclass(frozen=True)
class Tensor:
    """A tensor's element type and shape. Its values are never read."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Number of elements."""
        return prod(self.shape)


@dataclass(frozen=True)
class Content:
    """The tensors of the model by name, in the file's order, and the metadata stored beside them.

    `other_tensors` counts those that are not of the model, e.g. the optimizer's. `metadata` are
    what the file has; see `metadata.plain_metadata`.
    """

    format: str
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    other_tensors: int = 0

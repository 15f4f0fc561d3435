"""Model files and promotions for the tests of publishing. The bytes begin as torch's do; what follows only has to differ."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ringrift_dagster.models.manifest import Current
from ringrift_dagster.models.publishing.published_set import ModelFile


def model_bytes(text: str, size: int = 4000) -> bytes:
    """Content of a model file, the same for the same text."""
    return b"PK\x03\x04" + hashlib.shake_256(text.encode()).digest(size)


def model_file(folder: Path, text: str, promoted_at: float, size: int = 4000) -> ModelFile:
    """A model file in a folder, with its entry of the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    content = model_bytes(text, size)
    sha256 = hashlib.sha256(content).hexdigest()
    path = folder / f"{sha256}.pth"
    path.write_bytes(content)
    current = Current(sha256=sha256, promoted_at=promoted_at, bytes=len(content), model=text, file=f"{sha256}.pth", decision="1")
    return ModelFile(current, path)

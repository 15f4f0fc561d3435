"""Items on their way, for tests: what an order says of some content, the part it came in, and publishing it as an agent does."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ringrift_dagster.manifest.inventory import CHUNK_SIZE, ItemType
from ringrift_dagster.transfer.model import Offer, OrderedItem, TransportName
from ringrift_dagster.transfer.part import PartFile
from ringrift_dagster.transfer.publish import Published, publish


def ordered(content: bytes, type: ItemType, name: str, **more: object) -> OrderedItem:
    """An order of `content`; further fields may be given."""
    offer = Offer(transport=TransportName.HTTP, location="gpu-1", address="http://127.0.0.1:1/")
    told = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "type": type, "name": name, "offers": (offer,)}
    return OrderedItem.model_validate({**told, **more})


def filled(folder: Path, item: OrderedItem, content: bytes) -> PartFile:
    """The part of an item, into which somebody wrote `content`."""
    folder.mkdir(parents=True, exist_ok=True)
    part = PartFile.open(folder, item.name, item.sha256, len(content), None)
    try:
        for index in range(part.chunk_count):
            assert part.put(index, content[index * CHUNK_SIZE : (index + 1) * CHUNK_SIZE])
    except BaseException:
        part.close()
        raise
    return part


def bring(root: Path, content: bytes, item: OrderedItem, path: str) -> Published:
    """Publish `content`, which came in a part beside its destination. Raises NotPublished."""
    with filled((root / path).parent, item, content) as part:
        return publish(part, item, root, path)


def bring_games(root: Path, incoming: Path, path: str) -> Published:
    """Publish a database's games into the live database `path`."""
    content = incoming.read_bytes()
    return bring(root, content, ordered(content, ItemType.GAME_DB, Path(path).name, merge=True), path)

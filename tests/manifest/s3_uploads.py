"""Putting items into a bucket, for tests of what reads them there."""

from __future__ import annotations

import hashlib
from typing import Any

from ringrift_dagster.manifest.inventory import FoundItem
from ringrift_dagster.manifest.sources.s3_metadata import metadata_of, type_of
from tests.s3_servers import S3Server


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def upload(server: S3Server, key: str, body: bytes, *, storage_class: str = "STANDARD", **facts: Any) -> FoundItem:
    """Upload with what an uploader of ours writes into the metadata; returns the item that it is."""
    told = {"type": type_of(key), **facts}
    server.put(key, body, metadata_of(digest(body), told), StorageClass=storage_class)
    return FoundItem.model_validate({"path": key, "sha256": digest(body), "size": len(body), **told})

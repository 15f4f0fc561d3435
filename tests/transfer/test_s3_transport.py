"""Presigned URLs of a real bucket as sources: no keys, and whoever has none that is good gets nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ringrift_dagster.manifest.inventory import CHUNK_SIZE
from ringrift_dagster.transfer.fetch import FetchFailed, fetch
from ringrift_dagster.transfer.model import TransportName
from ringrift_dagster.transfer.transports.s3 import S3Transport
from tests.s3_servers import S3Server, new_bucket, rclone_server
from tests.transfer.fetching import Consent, content, offer

ITEM = content(2 * CHUNK_SIZE + 77, 12)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with rclone_server(tmp_path_factory.mktemp("rclone") / "server") as endpoint:
        server = new_bucket(endpoint)
        server.put("data/some.npz", ITEM.data)
        yield server


def presigned(bucket: S3Server, key: str) -> str:
    return bucket.client.generate_presigned_url("get_object", Params={"Bucket": bucket.bucket, "Key": key}, ExpiresIn=300)


def test_an_item_comes_from_a_bucket(bucket: S3Server, tmp_path: Path) -> None:
    item = ITEM.item([offer(presigned(bucket, "data/some.npz"), "cold", TransportName.S3)])
    with ITEM.part(tmp_path) as part:
        fetched = fetch(part, item, {TransportName.S3: S3Transport()}, Consent())
        assert part.path.read_bytes() == ITEM.data
    assert (fetched.transport, fetched.source, fetched.bytes) == (TransportName.S3, "cold", ITEM.size)


@pytest.mark.parametrize(
    ("key", "spoilt", "code"), [("data/some.npz", True, "unauthorized"), ("data/none.npz", False, "not_found")]
)
def test_what_may_not_be_had_says_so(bucket: S3Server, tmp_path: Path, key: str, spoilt: bool, code: str) -> None:
    url = presigned(bucket, key)
    url = url[:-4] + "0000" if spoilt else url
    of = offer(url, "cold", TransportName.S3)
    assert S3Transport().probe(of, 5).failure == code
    with ITEM.part(tmp_path) as part, pytest.raises(FetchFailed) as failed:
        fetch(part, ITEM.item([of]), {TransportName.S3: S3Transport()}, Consent())
    assert [each.failure for each in failed.value.fetched.offers] == [code]
    assert "Signature" not in failed.value.detail

"""A manifest was published before its files: readers asked for what was not there yet and got 404s."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ringrift_dagster.manifest.sources.s3_manifest import manifest_key, publish_manifest, read_manifest
from tests.manifest.s3_uploads import digest, upload
from tests.s3_servers import Proxy, S3Server, client_of, new_bucket, proxy_before, rclone_server

MANIFEST = manifest_key("consolidated")


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with rclone_server(tmp_path_factory.mktemp("s3") / "server") as endpoint:
        yield endpoint


@pytest.fixture
def bucket(endpoint: str) -> S3Server:
    return new_bucket(endpoint)


@pytest.fixture
def watched(bucket: S3Server) -> Iterator[tuple[Proxy, S3Server]]:
    """The bucket through a proxy that keeps the order of requests."""
    with proxy_before(bucket.endpoint) as proxy:
        yield proxy, S3Server(proxy.endpoint, bucket.bucket, client_of(proxy.endpoint))


def test_every_object_is_there_and_was_looked_at_before_the_manifest(watched: tuple[Proxy, S3Server]) -> None:
    proxy, server = watched
    items = [upload(server, f"consolidated/training/hex8_{n}p.npz", b"%d" % n) for n in (2, 3, 4)]
    publish_manifest(server.client, server.bucket, "consolidated", items)
    keys = {item.path for item in items}
    order = [(request.method, request.key) for request in proxy.requests if request.key]
    written = order.index(("PUT", MANIFEST))
    assert {key for method, key in order[:written] if method == "PUT"} == keys
    assert {key for method, key in order[:written] if method == "HEAD"} == keys
    assert order[written + 1 :] == [("GET", MANIFEST)]


def test_an_upload_that_failed_is_never_named(watched: tuple[Proxy, S3Server]) -> None:
    proxy, server = watched
    proxy.fault = lambda request: 500 if request.method == "PUT" and "hex8_3p" in request.key else None
    items = []
    for players in (2, 3, 4):
        key, body = f"consolidated/training/hex8_{players}p.npz", b"%d" % players
        try:
            items.append(upload(server, key, body))
        except server.client.exceptions.ClientError:
            items.append(items[0].model_copy(update={"path": key}))
    published = publish_manifest(server.client, server.bucket, "consolidated", items)
    assert (published.written, published.dangling) == (2, [items[1].path])
    assert all_there(server) == [items[0].path, items[2].path]


def test_objects_deleted_before_every_publishing_never_dangle(bucket: S3Server) -> None:
    items = [upload(bucket, f"models/hex8_2p_{n}.pth", b"%d" % n) for n in range(6)]
    while items:
        publish_manifest(bucket.client, bucket.bucket, "consolidated", items)
        assert all_there(bucket) == [item.path for item in items]
        gone = items.pop()
        bucket.client.delete_object(Bucket=bucket.bucket, Key=gone.path)
        published = publish_manifest(bucket.client, bucket.bucket, "consolidated", [*items, gone])
        assert published.dangling == [gone.path]
        assert all_there(bucket) == [item.path for item in items]


def all_there(server: S3Server) -> list[str]:
    """What the manifest names, each fetched as a reader does: a 404 raises."""
    manifest = read_manifest(server.client, server.bucket)
    assert manifest is not None
    for entry in manifest.objects.values():
        body = server.client.get_object(Bucket=server.bucket, Key=entry.key)["Body"].read()
        assert (len(body), digest(body)) == (entry.size, entry.sha256)
    return sorted(manifest.objects)

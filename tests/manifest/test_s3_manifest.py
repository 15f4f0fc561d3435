"""Our consolidated manifest: what it names is there, what is not there is told, and what stands in its place may be anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ringrift_dagster.manifest.inventory import FoundItem
from ringrift_dagster.manifest.sources import s3_manifest
from ringrift_dagster.manifest.sources.s3_client import Failure
from ringrift_dagster.manifest.sources.s3_manifest import (
    ManifestUnreadable,
    PublishFailed,
    manifest_key,
    publish_manifest,
    read_manifest,
)
from tests.manifest.s3_uploads import digest, upload
from tests.s3_servers import Proxy, S3Server, client_of

KEY = "consolidated/ringrift-data-manifest.json"


def publish(server: S3Server, *entries: FoundItem, client: Any = None) -> s3_manifest.Published:
    return publish_manifest(client or server.client, server.bucket, "consolidated", entries)


def named(server: S3Server) -> dict[str, str]:
    manifest = read_manifest(server.client, server.bucket)
    return {entry.key: entry.sha256 for entry in manifest.objects.values()} if manifest else {}


def test_the_manifest_stands_beside_ringrifts() -> None:
    assert manifest_key() == manifest_key("/consolidated/") == KEY != "consolidated/manifest.json"
    assert manifest_key("") == "ringrift-data-manifest.json"


def test_what_was_published_reads_back(s3_rclone: S3Server) -> None:
    assert read_manifest(s3_rclone.client, s3_rclone.bucket) is None
    games = upload(s3_rclone, "consolidated/games/hex8_2p.db", b"games", config="hex8_2p", games=5, newest_game=1.7e9)
    model = upload(s3_rclone, "models/square8_2p.pth", b"model", config="square8_2p", elo=1550.0)
    published = publish(s3_rclone, model, games)
    assert (published.written, published.dangling, published.changed) == (2, [], True)
    manifest = read_manifest(s3_rclone.client, s3_rclone.bucket)
    assert manifest is not None
    assert list(manifest.objects) == [games.path, model.path]
    entry = manifest.objects[games.path]
    assert (entry.sha256, entry.size, entry.type, entry.config, entry.games) == (games.sha256, 5, "GAME_DB", "hex8_2p", 5)
    assert entry.facts() == {"type": "GAME_DB", "config": "hex8_2p", "games": 5, "newest_game": 1.7e9, "soundness": "UNKNOWN"}
    answer = s3_rclone.client.get_object(Bucket=s3_rclone.bucket, Key=KEY)
    body = answer["Body"].read()
    assert {name.lower(): text for name, text in answer["Metadata"].items()}["sha256"] == digest(body)
    assert orjson.loads(body)["version"] == 1


def test_nothing_is_written_when_nothing_changed(s3_rclone: S3Server, proxied: Callable[[S3Server], Proxy]) -> None:
    first = upload(s3_rclone, "models/hex8_2p.pth", b"one")
    publish(s3_rclone, first)
    proxy = proxied(s3_rclone)
    client = client_of(proxy.endpoint)
    published = publish(s3_rclone, first, client=client)
    assert (published.written, published.changed) == (1, False)
    assert (proxy.seen("PUT"), proxy.seen("HEAD")) == ([], [])
    second = upload(s3_rclone, "models/hex8_3p.pth", b"two")
    assert publish(s3_rclone, first, second, client=client).changed
    assert (proxy.seen("PUT"), proxy.seen("HEAD")) == ([KEY], [second.path])


def test_what_the_bucket_does_not_hold_is_dangling(s3_rclone: S3Server) -> None:
    good = upload(s3_rclone, "models/hex8_2p.pth", b"good")
    missing = good.model_copy(update={"path": "models/hex8_3p.pth"})
    longer = upload(s3_rclone, "models/hex8_4p.pth", b"longer").model_copy(update={"size": 3})
    other = upload(s3_rclone, "models/square8_2p.pth", b"four").model_copy(update={"sha256": digest(b"five")})
    published = publish(s3_rclone, good, missing, longer, other)
    assert (published.written, published.dangling) == (1, [missing.path, longer.path, other.path])
    assert named(s3_rclone) == {good.path: good.sha256}


def test_an_object_that_went_leaves_the_manifest(s3_rclone: S3Server) -> None:
    entries = [upload(s3_rclone, f"models/hex8_{n}p.pth", b"%d" % n) for n in (2, 3)]
    publish(s3_rclone, *entries)
    s3_rclone.client.delete_object(Bucket=s3_rclone.bucket, Key=entries[0].path)
    published = publish(s3_rclone, *entries)
    assert (published.written, published.dangling, published.changed) == (1, [entries[0].path], True)
    assert named(s3_rclone) == {entries[1].path: entries[1].sha256}


def test_an_object_that_goes_between_listing_and_look(s3_rclone: S3Server, proxied: Callable[[S3Server], Proxy]) -> None:
    item = upload(s3_rclone, "models/hex8_2p.pth", b"one")
    proxy = proxied(s3_rclone)
    proxy.fault = lambda request: 404 if request.method == "HEAD" else None
    assert publish(s3_rclone, item, client=client_of(proxy.endpoint)).dangling == [item.path]


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
def test_a_server_that_fails_leaves_the_manifest_that_was(
    s3_rclone: S3Server, proxied: Callable[[S3Server], Proxy], method: str
) -> None:
    first, second = (upload(s3_rclone, f"models/hex8_{n}p.pth", b"%d" % n) for n in (2, 3))
    publish(s3_rclone, first)
    proxy = proxied(s3_rclone)
    proxy.fault = lambda request: 500 if request.method == method else None
    with pytest.raises(Failure):
        publish(s3_rclone, first, second, client=client_of(proxy.endpoint))
    assert named(s3_rclone) == {first.path: first.sha256}


def test_a_bucket_that_keeps_something_else_is_found_out(s3_rclone: S3Server, proxied: Callable[[S3Server], Proxy]) -> None:
    item = upload(s3_rclone, "models/hex8_2p.pth", b"one")
    proxy = proxied(s3_rclone)

    def overwritten(request: Any, answer: Any) -> None:
        if request.method == "GET" and request.key == KEY and answer.status == 200:
            answer.body = answer.body.replace(b"hex8_2p", b"hex8_3p")

    proxy.rewrite = overwritten
    with pytest.raises(PublishFailed):
        publish(s3_rclone, item, client=client_of(proxy.endpoint))


def test_an_unreadable_manifest_is_written_anew(s3_rclone: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    item = upload(s3_rclone, "models/hex8_2p.pth", b"one")
    for body in (b"", b"{", b"[]", b'{"version": 2, "written_at": 1, "objects": []}', b"[" * 100_000):
        s3_rclone.put(KEY, body)
        with pytest.raises(ManifestUnreadable):
            read_manifest(s3_rclone.client, s3_rclone.bucket)
    assert publish(s3_rclone, item).changed
    monkeypatch.setattr(s3_manifest, "MAX_BYTES", 10)
    with pytest.raises(ManifestUnreadable, match="larger"):
        read_manifest(s3_rclone.client, s3_rclone.bucket)


def test_entries_that_make_no_sense_are_left_out_and_counted(s3_rclone: S3Server) -> None:
    good = {"key": "models/hex8_2p.pth", "sha256": digest(b"x"), "size": 1, "type": "MODEL"}
    bad = [{**good, **wrong} for wrong in ({"key": "../x"}, {"sha256": "0"}, {"size": -1}, {"type": "X"}, {"config": "chess"})]
    s3_rclone.put(KEY, orjson.dumps({"version": 1, "written_at": 1.5, "objects": [*bad, None, 7, good]}))
    manifest = read_manifest(s3_rclone.client, s3_rclone.bucket)
    assert manifest is not None
    assert (list(manifest.objects), manifest.invalid, manifest.written_at) == (["models/hex8_2p.pth"], 7, 1.5)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text() | st.integers(-(1 << 60), 1 << 60),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["key", "sha256", "size", "objects"]), inner),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(st.one_of(JSON, st.fixed_dictionaries({"version": st.just(1), "written_at": st.just(1), "objects": st.lists(JSON)})))
def test_anything_may_stand_in_the_manifests_place(s3_rclone: S3Server, content: Any) -> None:
    s3_rclone.put(KEY, orjson.dumps(content))
    try:
        manifest = read_manifest(s3_rclone.client, s3_rclone.bucket)
    except ManifestUnreadable:
        return
    assert manifest is not None
    assert (manifest.objects, manifest.invalid) == ({}, len(content["objects"]))

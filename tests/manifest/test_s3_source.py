"""A bucket as a location: what it says it holds, what it does when the server fails, and reading it through."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringrift_dagster.games.config import CONFIG_KEYS
from ringrift_dagster.manifest.inventory import Inventory, ItemType, NoAnswer, Soundness
from ringrift_dagster.manifest.sources import s3, s3_listing
from ringrift_dagster.manifest.sources.s3 import S3Source
from ringrift_dagster.manifest.sources.s3_client import make_client
from ringrift_dagster.manifest.sources.s3_manifest import publish_manifest
from ringrift_dagster.manifest.sources.s3_metadata import config_of, facts_in, hash_in, metadata_of, type_of
from ringrift_dagster.manifest.sources.s3_ringrift import ringrift_manifests
from tests.manifest.s3_uploads import digest, upload
from tests.s3_servers import Proxy, Request, S3Server, client_of, closed_port

Proxied = Callable[[S3Server], Proxy]
TIMEOUT = 20.0


@pytest.fixture
def source(tmp_path: Path) -> Callable[..., S3Source]:
    """A source over a bucket, by default through the server's own client; its cache stays the same for the test."""

    def make(server: S3Server, endpoint: str | None = None, **options: Any) -> S3Source:
        client = client_of(endpoint) if endpoint else server.client
        return S3Source("bucket", client, server.bucket, cache=tmp_path / "cache" / "s3.db", **options)

    return make


def found(inventory: Inventory) -> dict[str, str]:
    return {entry.path: entry.sha256 for entry in inventory.found}


def reasons(inventory: Inventory) -> dict[str, str]:
    return {entry.path: entry.reason for entry in inventory.untracked}


def silence(source: S3Source, timeout: float = TIMEOUT) -> NoAnswer:
    with pytest.raises(NoAnswer) as caught:
        source.read(None, timeout)
    assert caught.value.location == "bucket"
    return caught.value


def test_objects_with_a_hash_in_their_metadata_are_items(s3_rclone: S3Server, source: Callable[..., S3Source]) -> None:
    upload(s3_rclone, "consolidated/games/canonical_hex8_2p.db", b"games", games=12, newest_game=1_750_000_000.0)
    upload(s3_rclone, "consolidated/training/hex8_2p.npz", b"npz", samples=7, quality=0.5, soundness="SOUND")
    upload(s3_rclone, "models/canonical_square8_4p.pth", b"model", elo=1612.5)
    upload(s3_rclone, "nodes/n1/models/candidate_hex8_2p.pth", b"candidate")
    s3_rclone.put("transfers/hex8_2p.npz", b"on its way", {"sha256": digest(b"on its way")})
    s3_rclone.put("nodes/n1/manifest.json", b"{}")
    inventory = source(s3_rclone).read(None, TIMEOUT)
    items = {entry.path: entry for entry in inventory.found}
    assert inventory.full
    assert (inventory.cursor, inventory.pending, inventory.untracked) == (0, 0, [])
    assert {path: (entry.type, entry.config) for path, entry in items.items()} == {
        "consolidated/games/canonical_hex8_2p.db": (ItemType.GAME_DB, "hex8_2p"),
        "consolidated/training/hex8_2p.npz": (ItemType.NPZ, "hex8_2p"),
        "models/canonical_square8_4p.pth": (ItemType.MODEL, "square8_4p"),
        "nodes/n1/models/candidate_hex8_2p.pth": (ItemType.CHECKPOINT, "hex8_2p"),
    }
    games, npz = items["consolidated/games/canonical_hex8_2p.db"], items["consolidated/training/hex8_2p.npz"]
    assert (games.sha256, games.size, games.games, games.newest_game) == (digest(b"games"), 5, 12, 1_750_000_000.0)
    assert (npz.samples, npz.quality, npz.soundness) == (7, 0.5, Soundness.SOUND)
    assert items["models/canonical_square8_4p.pth"].elo == 1612.5
    assert abs(games.mtime - time.time()) < 60
    assert inventory.now is not None
    assert abs(inventory.now - time.time()) < 60


def test_what_is_no_item_says_why(s3_moto: S3Server, source: Callable[..., S3Source]) -> None:
    s3_moto.put("nodes/n1/games/selfplay.db")
    s3_moto.put("nodes/n1/training/hex8_2p.npz", b"x", {"sha256": "not a hash"})
    s3_moto.put("nodes/n1/training/square8_2p.npz", b"", {"sha256": digest(b"")})
    s3_moto.put("consolidated/games/holdouts/hex8_2p.db", b"x", {"sha256": digest(b"x")})
    s3_moto.put("consolidated/games/../up/hex8_2p.db")
    s3_moto.put("consolidated/games//hex8_2p.db")
    s3_moto.put("consolidated/games/")
    s3_moto.put("consolidated/games/hex8_2p.db-wal")
    inventory = source(s3_moto).read(None, TIMEOUT)
    assert inventory.found == []
    assert reasons(inventory) == {
        "nodes/n1/games/selfplay.db": "no_hash",
        "nodes/n1/training/hex8_2p.npz": "no_hash",
        "nodes/n1/training/square8_2p.npz": "empty",
        "consolidated/games/holdouts/hex8_2p.db": "set_aside",
    }


def test_the_etag_is_never_taken_for_an_identity(s3_moto: S3Server, source: Callable[..., S3Source]) -> None:
    s3_moto.put("models/hex8_2p.pth", b"first")
    s3_moto.put("models/hex8_2p_copy.pth", b"first")
    inventory = source(s3_moto).read(None, TIMEOUT)
    assert inventory.found == []
    assert set(reasons(inventory).values()) == {"no_hash"}


def test_metadata_is_asked_for_once_while_an_object_stays_the_same(
    s3_rclone: S3Server, source: Callable[..., S3Source], proxied: Proxied
) -> None:
    for number in range(5):
        upload(s3_rclone, f"models/hex8_2p_{number}.pth", b"%d" % number)
    proxy = proxied(s3_rclone)
    first = source(s3_rclone, proxy.endpoint).read(None, TIMEOUT)
    assert len(proxy.seen("HEAD")) == 5
    again = source(s3_rclone, proxy.endpoint).read(None, TIMEOUT)
    assert (found(again), again.epoch) == (found(first), first.epoch)
    assert len(proxy.seen("HEAD")) == 5
    upload(s3_rclone, "models/hex8_2p_3.pth", b"another")
    after = source(s3_rclone, proxy.endpoint).read(None, TIMEOUT)
    assert found(after)["models/hex8_2p_3.pth"] == digest(b"another")
    assert proxy.seen("HEAD")[5:] == ["models/hex8_2p_3.pth"]


def test_an_object_overwritten_without_a_hash_is_not_what_it_was(s3_rclone: S3Server, source: Callable[..., S3Source]) -> None:
    upload(s3_rclone, "models/hex8_2p.pth", b"first")
    bucket = source(s3_rclone)
    assert found(bucket.read(None, TIMEOUT)) == {"models/hex8_2p.pth": digest(b"first")}
    s3_rclone.put("models/hex8_2p.pth", b"other")
    inventory = bucket.read(None, TIMEOUT)
    assert (found(inventory), reasons(inventory)) == ({}, {"models/hex8_2p.pth": "no_hash"})
    s3_rclone.client.delete_object(Bucket=s3_rclone.bucket, Key="models/hex8_2p.pth")
    inventory = bucket.read(None, TIMEOUT)
    assert (found(inventory), reasons(inventory), inventory.full) == ({}, {}, True)


def test_our_manifest_tells_the_hash_of_objects_not_newer_than_it(s3_rclone: S3Server, source: Callable[..., S3Source]) -> None:
    keys = ["models/hex8_2p.pth", "models/square8_2p.pth"]
    for key in keys:
        s3_rclone.put(key, key.encode())
    entries = [upload(s3_rclone, "models/hex8_3p.pth", b"kept", elo=1500.0)]
    entries += [entries[0].model_copy(update={"path": key, "sha256": digest(key.encode()), "size": len(key)}) for key in keys]
    publish_manifest(s3_rclone.client, s3_rclone.bucket, "consolidated", entries)
    bucket = source(s3_rclone)
    inventory = bucket.read(None, TIMEOUT)
    assert {key: found(inventory)[key] for key in keys} == {key: digest(key.encode()) for key in keys}
    assert {entry.elo for entry in inventory.found} == {1500.0}
    s3_rclone.put(keys[0], keys[0].upper().encode())  # same size, later than the manifest
    inventory = bucket.read(None, TIMEOUT)
    assert keys[0] not in found(inventory)
    assert reasons(inventory) == {keys[0]: "no_hash"}
    s3_rclone.client.delete_object(Bucket=s3_rclone.bucket, Key="consolidated/ringrift-data-manifest.json")
    assert keys[1] in found(bucket.read(None, TIMEOUT))


def test_a_broken_manifest_of_ours_changes_nothing(s3_rclone: S3Server, source: Callable[..., S3Source]) -> None:
    upload(s3_rclone, "models/hex8_2p.pth", b"model")
    s3_rclone.put("consolidated/ringrift-data-manifest.json", b'{"version": 1, "objects": 7')
    assert found(source(s3_rclone).read(None, TIMEOUT)) == {"models/hex8_2p.pth": digest(b"model")}


def test_archived_objects_are_told_apart(s3_moto: S3Server, source: Callable[..., S3Source], proxied: Proxied) -> None:
    upload(s3_moto, "models/hex8_2p_old.pth", b"cold", storage_class="GLACIER")
    upload(s3_moto, "models/hex8_2p_older.pth", b"colder", storage_class="DEEP_ARCHIVE")
    upload(s3_moto, "models/hex8_2p_rare.pth", b"cool", storage_class="STANDARD_IA")
    s3_moto.put("models/hex8_2p_unknown.pth", b"never hashed", StorageClass="GLACIER")
    proxy = proxied(s3_moto)
    bucket = source(s3_moto, proxy.endpoint)
    inventory = bucket.read(None, TIMEOUT)
    assert {entry.path: entry.provenance.get("storage_class") for entry in inventory.found} == {
        "models/hex8_2p_old.pth": "GLACIER",
        "models/hex8_2p_older.pth": "DEEP_ARCHIVE",
        "models/hex8_2p_rare.pth": "STANDARD_IA",
    }
    assert reasons(inventory) == {"models/hex8_2p_unknown.pth": "archived"}

    def restored(request: Request, answer: Any) -> None:
        """As S3 tells of a finished restore in a listing; moto does not."""
        status = b"<RestoreStatus><IsRestoreInProgress>false</IsRestoreInProgress>"
        status += b"<RestoreExpiryDate>2126-11-24T00:00:00Z</RestoreExpiryDate></RestoreStatus></Contents>"
        if "list-type=2" in request.query:
            answer.body = answer.body.replace(b"</Contents>", status)

    proxy.rewrite = restored
    inventory = bucket.read(None, TIMEOUT)
    assert {entry.provenance.get("storage_class") for entry in inventory.found} == {None, "STANDARD_IA"}
    assert reasons(inventory) == {"models/hex8_2p_unknown.pth": "no_hash"}


def test_a_listing_of_several_pages(
    s3_rclone: S3Server, source: Callable[..., S3Source], monkeypatch: pytest.MonkeyPatch, proxied: Proxied
) -> None:
    monkeypatch.setattr(s3_listing, "PAGE_OBJECTS", 3)
    expected = {entry.path for entry in (upload(s3_rclone, f"models/hex8_2p_{n}.pth", b"%d" % n) for n in range(8))}
    proxy = proxied(s3_rclone)
    assert found(source(s3_rclone, proxy.endpoint).read(None, TIMEOUT)).keys() == expected
    assert sum("prefix=models" in request.query for request in proxy.requests) == 3


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Pages of two objects; set when those after the first may come."""
    monkeypatch.setattr(s3_listing, "PAGE_OBJECTS", 2)
    opened = threading.Event()
    yield opened
    opened.set()


def held_by(gate: threading.Event, then: str | int | None = None) -> Callable[[Request], str | int | None]:
    """A fault: later pages wait for the gate, and then `then` happens to them."""
    return lambda request: (gate.wait(20) and then) if "continuation-token" in request.query else None


def test_a_listing_too_long_for_one_answer_goes_on_behind_it(
    s3_rclone: S3Server, source: Callable[..., S3Source], proxied: Proxied, gate: threading.Event
) -> None:
    expected = {entry.path for entry in (upload(s3_rclone, f"models/hex8_2p_{n}.pth", b"%d" % n) for n in range(5))}
    proxy = proxied(s3_rclone)
    proxy.fault = held_by(gate)
    told = silence(source(s3_rclone, proxy.endpoint), 3.0)
    assert (told.code, "pages so far" in told.detail) == ("unfinished", True)
    assert silence(source(s3_rclone, proxy.endpoint), 0.3).code == "timeout", "no page came since"
    gate.set()
    inventory = source(s3_rclone, proxy.endpoint).read(None, TIMEOUT)
    assert (inventory.full, inventory.begun_earlier, found(inventory).keys()) == (True, True, expected)
    assert abs((inventory.now or 0) - time.time()) < 2, "the server's clock now, not as it was when the listing began"
    assert sum("prefix=models" in request.query for request in proxy.requests) == 3
    upload(s3_rclone, "models/hex8_3p.pth", b"new")
    inventory = source(s3_rclone, proxy.endpoint).read(None, TIMEOUT)
    assert (inventory.begun_earlier, found(inventory).keys()) == (False, {*expected, "models/hex8_3p.pth"})


def test_a_listing_that_failed_behind_the_answer_is_begun_anew(
    s3_rclone: S3Server, source: Callable[..., S3Source], proxied: Proxied, gate: threading.Event
) -> None:
    for number in range(3):
        upload(s3_rclone, f"models/hex8_2p_{number}.pth", b"%d" % number)
    proxy = proxied(s3_rclone)
    failing = held_by(gate, 500)
    proxy.fault = failing
    assert silence(source(s3_rclone, proxy.endpoint), 3.0).code == "unfinished"
    held = len([request for request in proxy.requests if "continuation-token" in request.query])
    proxy.fault = lambda request: None
    gate.set()
    inventory = source(s3_rclone, proxy.endpoint).read(None, TIMEOUT)
    assert (held, inventory.begun_earlier, len(inventory.found)) == (1, False, 3)


def test_an_old_listing_is_no_answer(
    s3_rclone: S3Server,
    source: Callable[..., S3Source],
    proxied: Proxied,
    gate: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number in range(3):
        upload(s3_rclone, f"models/hex8_2p_{number}.pth", b"%d" % number)
    proxy = proxied(s3_rclone)
    proxy.fault = held_by(gate)
    assert silence(source(s3_rclone, proxy.endpoint), 3.0).code == "unfinished"
    (listing,) = (each for key, each in s3._LISTINGS._known.items() if key[0] == proxy.endpoint)
    gate.set()
    assert listing.result(TIMEOUT) is not None
    monkeypatch.setattr(s3_listing, "RESULT_SECONDS", -1.0)
    inventory = source(s3_rclone, proxy.endpoint).read(None, TIMEOUT)
    assert (inventory.begun_earlier, len(inventory.found)) == (False, 3)


def test_a_listing_that_nobody_asks_for_ends(
    s3_rclone: S3Server, source: Callable[..., S3Source], proxied: Proxied, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        upload(s3_rclone, f"models/hex8_2p_{number}.pth", b"%d" % number)
    proxy = proxied(s3_rclone)
    proxy.fault = held_by(gate)
    assert silence(source(s3_rclone, proxy.endpoint), 3.0).code == "unfinished"
    (listing,) = (each for key, each in s3._LISTINGS._known.items() if key[0] == proxy.endpoint)
    monkeypatch.setattr(s3_listing, "FORSAKEN_SECONDS", -1.0)
    gate.set()
    with pytest.raises(s3_listing.ListingBroken, match="nobody asks"):
        listing.result(TIMEOUT)
    assert sum("prefix=models" in request.query for request in proxy.requests) == 2


FAULTS = [
    (403, "unauthorized"),
    (404, "not_found"),
    (500, "server_error"),
    (503, "server_error"),
    ("reset", "server_error"),
    ("garbage", "server_error"),
]


@pytest.mark.parametrize(("fault", "code"), FAULTS)
def test_a_page_that_fails_in_the_middle_is_no_answer(
    s3_rclone: S3Server,
    source: Callable[..., S3Source],
    proxied: Proxied,
    monkeypatch: pytest.MonkeyPatch,
    fault: str | int,
    code: str,
) -> None:
    monkeypatch.setattr(s3_listing, "PAGE_OBJECTS", 2)
    for number in range(5):
        upload(s3_rclone, f"models/hex8_2p_{number}.pth", b"%d" % number)
    proxy = proxied(s3_rclone)
    bucket = source(s3_rclone, proxy.endpoint)
    proxy.fault = lambda request: fault if "continuation-token" in request.query else None
    assert silence(bucket).code == code
    assert any("continuation-token" in request.query for request in proxy.requests)
    proxy.fault = lambda request: None
    assert len(bucket.read(None, TIMEOUT).found) == 5


def test_a_server_that_hangs(s3_rclone: S3Server, source: Callable[..., S3Source], proxied: Proxied, tmp_path: Path) -> None:
    proxy = proxied(s3_rclone)
    proxy.fault = lambda request: "hang"
    hasty = S3Source("bucket", client_of(proxy.endpoint, read_seconds=0.2), s3_rclone.bucket, cache=tmp_path / "s3.db")
    assert "Read timeout" in silence(hasty).detail
    started = time.monotonic()
    assert silence(source(s3_rclone, proxy.endpoint), 0.3).code == "timeout"
    assert time.monotonic() - started < 8


def test_no_server_no_bucket_no_right(
    s3_rclone: S3Server, source: Callable[..., S3Source], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert silence(source(s3_rclone, closed_port())).code == "refused"
    assert silence(source(replace(s3_rclone, bucket="no-such-bucket"))).code == "not_found"
    assert silence(source(replace(s3_rclone, bucket="not a bucket"))).code == "not_found"
    stranger = S3Source("bucket", client_of(s3_rclone.endpoint, secret="wrong"), s3_rclone.bucket, cache=tmp_path / "other.db")
    assert silence(stranger).code == "unauthorized"
    nowhere = client_of("http://no-such-host.invalid")
    assert silence(S3Source("bucket", nowhere, "bucket", cache=tmp_path / "other.db")).code == "unreachable"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    nobody = make_client("us-east-1", s3_rclone.endpoint)
    assert silence(S3Source("bucket", nobody, s3_rclone.bucket, cache=tmp_path / "other.db")).code == "unauthorized"


def test_metadata_that_cannot_be_read_now_leaves_objects_pending(
    s3_rclone: S3Server, source: Callable[..., S3Source], proxied: Proxied
) -> None:
    upload(s3_rclone, "models/hex8_2p.pth", b"one")
    upload(s3_rclone, "models/square8_2p.pth", b"two")
    proxy = proxied(s3_rclone)
    proxy.fault = lambda request: 500 if request.method == "HEAD" and "hex8" in request.key else None
    bucket = source(s3_rclone, proxy.endpoint)
    inventory = bucket.read(None, TIMEOUT)
    assert found(inventory) == {"models/square8_2p.pth": digest(b"two")}
    assert (reasons(inventory), inventory.pending, inventory.full) == ({"models/hex8_2p.pth": "pending"}, 1, False)
    proxy.fault = lambda request: None
    assert len(bucket.read(None, TIMEOUT).found) == 2


def test_refused_metadata_is_asked_for_again_later(s3_rclone: S3Server, source: Callable[..., S3Source], proxied: Proxied) -> None:
    upload(s3_rclone, "models/hex8_2p.pth", b"one")
    proxy, now = proxied(s3_rclone), [1_000_000.0]
    proxy.fault = lambda request: 403 if request.method == "HEAD" else None
    bucket = source(s3_rclone, proxy.endpoint, clock=lambda: now[0])
    inventory = bucket.read(None, TIMEOUT)
    assert [(entry.reason, entry.detail) for entry in inventory.untracked] == [("no_hash", "its metadata is refused: status 403")]
    proxy.fault = lambda request: None
    assert bucket.read(None, TIMEOUT).found == []
    now[0] += s3.RETRY_SECONDS + 1
    assert found(bucket.read(None, TIMEOUT)) == {"models/hex8_2p.pth": digest(b"one")}


def test_an_object_that_goes_while_the_bucket_is_read(
    s3_rclone: S3Server, source: Callable[..., S3Source], proxied: Proxied
) -> None:
    upload(s3_rclone, "models/hex8_2p.pth", b"one")
    upload(s3_rclone, "models/square8_2p.pth", b"two")
    proxy = proxied(s3_rclone)
    proxy.fault = lambda request: 404 if request.method == "HEAD" and "hex8" in request.key else None
    inventory = source(s3_rclone, proxy.endpoint).read(None, TIMEOUT)
    assert (found(inventory).keys(), reasons(inventory)) == ({"models/square8_2p.pth"}, {})


def test_scrub_hashes_what_nobody_hashed_and_remembers(
    s3_rclone: S3Server, source: Callable[..., S3Source], proxied: Proxied
) -> None:
    upload(s3_rclone, "models/hex8_2p.pth", b"claimed")
    s3_rclone.put("models/hex8_3p.pth", b"nobody's")
    proxy = proxied(s3_rclone)
    done = source(s3_rclone, proxy.endpoint).scrub(1, TIMEOUT)  # a bucket nobody read before
    assert (done.files, done.bytes, done.damaged, done.remaining) == (1, 8, (), 1)
    assert proxy.seen("GET") == ["models/hex8_3p.pth"]
    inventory = source(s3_rclone).read(None, TIMEOUT)
    assert found(inventory) == {"models/hex8_2p.pth": digest(b"claimed"), "models/hex8_3p.pth": digest(b"nobody's")}
    verified = {entry.path: entry.verified_at for entry in inventory.found}
    assert verified["models/hex8_2p.pth"] is None
    assert abs((verified["models/hex8_3p.pth"] or 0) - time.time()) < 60
    done = source(s3_rclone, proxy.endpoint).scrub(1 << 20, TIMEOUT)
    assert (done.files, done.remaining) == (1, 0)
    assert proxy.seen("GET")[1:] == ["models/hex8_2p.pth"]
    assert source(s3_rclone).scrub(1 << 20, TIMEOUT).files == 0


def test_scrub_goes_round_by_what_was_read_longest_ago(
    s3_rclone: S3Server, source: Callable[..., S3Source], proxied: Proxied
) -> None:
    keys = [upload(s3_rclone, f"models/hex8_2p_{number}.pth", b"content").path for number in range(4)]
    proxy, now = proxied(s3_rclone), [1_000_000.0]
    bucket = source(s3_rclone, proxy.endpoint, clock=lambda: now[0])
    for expected in (keys[:2], keys[2:], keys[:2]):
        before = len(proxy.seen("GET"))
        assert bucket.scrub(14, TIMEOUT).files == 2
        assert proxy.seen("GET")[before:] == expected
        now[0] += s3.SCRUB_AGAIN_SECONDS * 0.6


def test_bytes_that_are_not_what_the_metadata_claims_are_damaged(s3_rclone: S3Server, source: Callable[..., S3Source]) -> None:
    s3_rclone.put("models/hex8_2p.pth", b"rotten", {"sha256": digest(b"good")})
    bucket = source(s3_rclone)
    assert [entry.damaged for entry in bucket.read(None, TIMEOUT).found] == [False]
    assert bucket.scrub(1 << 20, TIMEOUT).damaged == ("models/hex8_2p.pth",)
    for reader in (bucket, source(s3_rclone)):
        assert [(entry.damaged, entry.sha256) for entry in reader.read(None, TIMEOUT).found] == [(True, digest(b"good"))]
    upload(s3_rclone, "models/hex8_2p.pth", b"good")
    assert [entry.damaged for entry in bucket.read(None, TIMEOUT).found] == [False]


def test_scrub_leaves_archives_alone(s3_moto: S3Server, source: Callable[..., S3Source]) -> None:
    upload(s3_moto, "models/hex8_2p.pth", b"cold", storage_class="GLACIER")
    bucket = source(s3_moto)
    bucket.read(None, TIMEOUT)
    assert bucket.scrub(1 << 20, TIMEOUT).files == 0
    upload(s3_moto, "models/hex8_3p.pth", b"warm")
    bucket.read(None, TIMEOUT)
    done = bucket.scrub(1 << 20, TIMEOUT)
    assert (done.files, done.bytes, done.remaining) == (1, 4, 0)


def test_an_object_too_large_for_one_scrub_is_gone_on_with(
    s3_rclone: S3Server, source: Callable[..., S3Source], monkeypatch: pytest.MonkeyPatch, proxied: Proxied
) -> None:
    body = bytes(range(256)) * 4096
    s3_rclone.put("models/hex8_2p.pth", body)
    s3_rclone.put("models/hex8_3p.pth", b"small")
    monkeypatch.setattr(s3, "READ_BLOCK", 1 << 18)
    bucket = source(s3_rclone)
    bucket.read(None, TIMEOUT)
    parts = []
    for _ in range(10):
        parts.append(bucket._scrub(1, time.monotonic()))  # no time at all: a block each
        if parts[-1].files:
            break
    assert [(part.files, part.bytes) for part in parts] == [(0, 1 << 18)] * 3 + [(1, 1 << 18)]
    assert found(bucket.read(None, TIMEOUT)) == {"models/hex8_2p.pth": digest(body)}


def test_a_connection_that_breaks_while_scrubbing(s3_rclone: S3Server, source: Callable[..., S3Source], proxied: Proxied) -> None:
    body = b"0123456789" * 400_000
    s3_rclone.put("models/hex8_2p.pth", body)
    proxy = proxied(s3_rclone)
    bucket = source(s3_rclone, proxy.endpoint)
    bucket.read(None, TIMEOUT)
    proxy.fault = lambda request: "reset" if request.method == "GET" and request.key else None
    with pytest.raises(NoAnswer) as caught:
        bucket.scrub(1 << 30, TIMEOUT)
    assert caught.value.code == "server_error"
    proxy.fault = lambda request: None
    assert bucket.scrub(1 << 30, TIMEOUT).files == 1
    assert found(bucket.read(None, TIMEOUT)) == {"models/hex8_2p.pth": digest(body)}


def test_a_cache_that_is_lost_or_damaged_begins_anew(s3_rclone: S3Server, source: Callable[..., S3Source], tmp_path: Path) -> None:
    upload(s3_rclone, "models/hex8_2p.pth", b"one")
    first = source(s3_rclone).read(None, TIMEOUT)
    cache = tmp_path / "cache" / "s3.db"
    cache.write_bytes(b"no database" * 1000)
    for suffix in ("-wal", "-shm"):
        cache.with_name(cache.name + suffix).unlink(missing_ok=True)
    again = source(s3_rclone).read(None, TIMEOUT)
    assert found(again) == found(first)
    assert again.epoch != first.epoch
    unwritable = tmp_path / "file"
    unwritable.write_text("in the way")
    blocked = S3Source("bucket", s3_rclone.client, s3_rclone.bucket, cache=unwritable / "s3.db")
    assert silence(blocked).code == "disk_error"


def test_two_readers_at_once_share_a_cache(s3_rclone: S3Server, source: Callable[..., S3Source]) -> None:
    expected = {entry.path for entry in (upload(s3_rclone, f"models/hex8_2p_{n}.pth", b"%d" % n) for n in range(20))}
    answers: list[Inventory] = []
    threads = [threading.Thread(target=lambda: answers.append(source(s3_rclone).read(None, TIMEOUT))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found(answer).keys() for answer in answers] == [expected] * 4
    assert len({answer.epoch for answer in answers}) == 1


def test_nodes_that_nobody_declared_are_strangers(s3_rclone: S3Server, source: Callable[..., S3Source]) -> None:
    for node in ("vast-1", "10-0-0-7", "mac studio"):
        s3_rclone.put(f"nodes/{node}/manifest.json", b"{}")
    assert source(s3_rclone, strangers_known={"vast-1"}).read(None, TIMEOUT).strangers == ["10-0-0-7"]


def test_ringrifts_manifests_are_evidence_about_nodes(s3_rclone: S3Server) -> None:
    s3_rclone.put("nodes/vast-1/games/hex8_2p.db", b"x")
    files = {
        "games/hex8_2p.db": {"size": 1, "mtime": 5.0, "type": "database"},
        "models/hex8_2p_epoch9.pth": {"size": 7, "type": "model"},
        "../../etc/passwd": {"size": 1},
        "training/hex8_2p.npz": "what",
    }
    s3_rclone.put("nodes/vast-1/manifest.json", json.dumps({"node_id": "vast-1", "timestamp": 1.75e9, "files": files}).encode())
    s3_rclone.put("nodes/vast-2/games/hex8_2p.db", b"x")
    s3_rclone.put("nodes/vast-3/manifest.json", b"\xff{")
    s3_rclone.put("nodes/vast-4/manifest.json", b"[1, 2]")
    summary = {"total_games": 3, "total_models": "many", "total_npz": -1}
    s3_rclone.put("consolidated/manifest.json", json.dumps({"summary": summary}).encode())
    told = ringrift_manifests(s3_rclone.client, s3_rclone.bucket)
    first = told.nodes["vast-1"]
    assert first.claimed == {"games/hex8_2p.db": 1, "models/hex8_2p_epoch9.pth": 7, "training/hex8_2p.npz": -1}
    assert first.absent == ("models/hex8_2p_epoch9.pth", "training/hex8_2p.npz")
    assert first.last_seen == 1.75e9
    problems = {node: (manifest.problem or "").partition(":")[0] for node, manifest in told.nodes.items()}
    assert problems == {"vast-1": "", "vast-2": "no manifest", "vast-3": "no JSON", "vast-4": "not an object"}
    assert told.consolidated == {"total_games": 3}


def test_keys_tell_types_and_configs() -> None:
    assert type_of("models/checkpoints/hex8_2p_epoch3.pth") == ItemType.CHECKPOINT
    assert type_of("models/hex8_2p.onnx") == ItemType.MODEL
    assert type_of("consolidated/canonical/hex8_2p/games-1.parquet") == ItemType.CANONICAL_GAMES
    assert [type_of(key) for key in ("models/.pth", "models/a.json", "models/db", "")] == [None] * 4
    assert config_of("canonical/hex8_2p/games-0.parquet") == "hex8_2p"
    assert config_of("models/best.pth") is None


FACTS = st.fixed_dictionaries(
    {},
    optional={
        "config": st.sampled_from(CONFIG_KEYS),
        "type": st.sampled_from([str(member) for member in ItemType]),
        "games": st.integers(0, 1 << 40),
        "samples": st.integers(0, 1 << 40),
        "quality": st.floats(0, 1),
        "newest_game": st.floats(0, 1.7e9),
        "elo": st.floats(-10_000, 10_000),
        "soundness": st.sampled_from([str(member) for member in Soundness]),
    },
)


@given(FACTS, st.binary(max_size=3))
def test_metadata_reads_back_as_it_was_written(facts: dict[str, Any], content: bytes) -> None:
    written = {name.title(): text for name, text in metadata_of(digest(content), facts).items()}
    assert hash_in(written) == digest(content)
    assert facts_in(written) == facts


NAMES = st.sampled_from(["sha256", "config", "type", "games", "samples", "quality", "newest-game", "elo", "soundness"])


@given(st.dictionaries(NAMES, st.one_of(st.text(), st.sampled_from(["nan", "inf", "-1", "1e400", "٣", "9" * 400, "hex8_2p"]))))
def test_no_metadata_breaks_an_item(metadata: dict[str, str]) -> None:
    claimed, facts = hash_in(metadata), facts_in(metadata)
    assert claimed is None or (len(claimed) == 64 and claimed == claimed.lower())
    assert facts.get("quality", 0) <= 1
    assert facts.get("games", 0) <= 1 << 40
    assert facts.get("config", "hex8_2p") in CONFIG_KEYS
    json.dumps(facts, allow_nan=False)

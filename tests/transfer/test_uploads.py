"""Into buckets of real servers: nothing is named that was not read back, nothing is overwritten, whatever dies in between."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from ringrift_dagster.cluster.topology import S3Place
from ringrift_dagster.manifest.queries import Item
from ringrift_dagster.manifest.sources.s3 import S3Source
from ringrift_dagster.transfer import uploads
from ringrift_dagster.transfer.agents import AgentClient
from ringrift_dagster.transfer.uploads import ASIDE, PART_BYTES, Aside, Giver, LocalFile, PartRefused, RemoteCopy, UploadFailed
from tests.agents import RunningAgent, running_agent
from tests.s3_servers import Proxy, Request, S3Server, client_of, new_bucket
from tests.transfer.field import noise

SMALL, LARGE = noise(70_000, 1), noise(2 * PART_BYTES + 12_345, 2)


def item_of(data: bytes, config: str = "hex8_2p") -> Item:
    digest = hashlib.sha256(data).hexdigest()
    return Item(digest, "MODEL", config, len(data), None, None, None, None, 1500.0, "UNKNOWN", None, {}, 1.0)


@pytest.fixture(params=["rclone", "moto"])
def bucket(request: pytest.FixtureRequest) -> S3Server:
    return new_bucket(request.getfixturevalue(f"{request.param}_endpoint"))


def named(server: S3Server) -> S3Place:
    return S3Place(bucket=server.bucket)


def keys(server: S3Server) -> list[str]:
    """All that stands in the bucket."""
    return [entry["Key"] for entry in server.client.list_objects_v2(Bucket=server.bucket).get("Contents", ())]


def body(server: S3Server, key: str) -> bytes:
    return server.client.get_object(Bucket=server.bucket, Key=key)["Body"].read()


def under_way(server: S3Server) -> int:
    """Uploads in parts that nobody ended."""
    try:
        return len(server.client.list_multipart_uploads(Bucket=server.bucket).get("Uploads", ()))
    except ClientError as error:  # rclone's word for none
        assert error.response["Error"]["Code"] == "NoSuchUpload"
        return 0


def local(tmp_path: Path, data: bytes, name: str = "home") -> LocalFile:
    path = tmp_path / f"{name}.onnx"
    path.write_bytes(data)
    return LocalFile(name, path)


@dataclass
class Liar:
    """Sends other bytes than asked, and knows it when it looks."""

    location: str
    honest: LocalFile
    admits: bool | None = False

    def put(self, aside: Aside, start: int, length: int, part: int | None) -> str:
        data = bytearray(self.honest.path.read_bytes()[start : start + length])
        data[0] ^= 1
        send = aside.client.put_object if part is None else aside.client.upload_part
        return send(**aside.where(part), Body=bytes(data))["ETag"]

    def proves(self, sha256: str) -> bool | None:
        return self.admits


@dataclass
class Refuser:
    """Sends nothing."""

    location: str = "nowhere"
    asked: int = 0

    def put(self, aside: Aside, start: int, length: int, part: int | None) -> str:
        self.asked += 1
        raise PartRefused("nobody there")

    def proves(self, sha256: str) -> bool | None:
        return None


@pytest.mark.parametrize("data", [SMALL, LARGE, b""], ids=["small", "in parts", "empty"])
def test_it_stands_under_its_hash_with_all_that_is_known_of_it(bucket: S3Server, tmp_path: Path, data: bytes) -> None:
    item = item_of(data)
    done = uploads.upload(bucket.client, named(bucket), item, ".onnx", [local(tmp_path, data)])
    assert done.key == f"consolidated/models/hex8_2p_{item.sha256}.onnx"
    assert (done.bytes, done.source) == (len(data), "home")
    assert keys(bucket) == [done.key] and body(bucket, done.key) == data
    assert under_way(bucket) == 0
    found = S3Source(bucket.bucket, bucket.client, bucket.bucket, cache=tmp_path / "cache.db").read(None, 20).found
    told = [(entry.path, entry.sha256, entry.size, entry.config, entry.elo) for entry in found]
    assert told == [(done.key, item.sha256, len(data), "hex8_2p", 1500.0)] or not data


def test_again_it_is_read_through_and_not_sent_again(bucket: S3Server, tmp_path: Path) -> None:
    item, giver = item_of(SMALL), Refuser()
    first = uploads.upload(bucket.client, named(bucket), item, ".onnx", [local(tmp_path, SMALL)])
    again = uploads.upload(bucket.client, named(bucket), item, ".onnx", [giver])
    assert (again.key, again.bytes, giver.asked) == (first.key, 0, 0)
    assert again.verified_at >= first.verified_at


def test_what_stands_there_is_never_overwritten(bucket: S3Server, tmp_path: Path) -> None:
    item = item_of(SMALL)
    key = uploads.key_of(named(bucket), item, ".onnx")
    bucket.put(key, b"somebody else's")
    bucket.put("consolidated/models/hex8_2p.onnx", b"the one of that name")
    with pytest.raises(UploadFailed) as caught:
        uploads.upload(bucket.client, named(bucket), item, ".onnx", [local(tmp_path, SMALL)])
    assert caught.value.cause == "occupied"
    assert body(bucket, key) == b"somebody else's"
    assert body(bucket, "consolidated/models/hex8_2p.onnx") == b"the one of that name"


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "in parts"])
@pytest.mark.parametrize(("admits", "cause", "liars"), [(False, "wrong_bytes", ("liar",)), (True, "upload_failed", ())])
def test_wrong_bytes_never_get_a_name(
    bucket: S3Server, tmp_path: Path, data: bytes, admits: bool, cause: str, liars: tuple[str, ...]
) -> None:
    seen: list[list[str]] = []
    giver = Liar("liar", local(tmp_path, data), admits)
    with pytest.raises(UploadFailed) as caught:
        uploads.upload(bucket.client, named(bucket), item_of(data), ".onnx", [giver], cancelled=lambda: _see(bucket, seen))
    assert (caught.value.cause, caught.value.liars) == (cause, liars)
    assert keys(bucket) == [] and under_way(bucket) == 0
    assert not [key for then in seen for key in then if ASIDE not in key], "not even for a moment"


def _see(bucket: S3Server, seen: list[list[str]]) -> bool:
    seen.append(keys(bucket))
    return False


def test_a_shorter_file_than_its_item_is_no_source(bucket: S3Server, tmp_path: Path) -> None:
    with pytest.raises(UploadFailed) as caught:
        uploads.upload(bucket.client, named(bucket), item_of(SMALL), ".onnx", [local(tmp_path, SMALL[:-1])])
    assert caught.value.cause == "no_source" and "shorter" in caught.value.detail
    assert keys(bucket) == []


def test_the_next_giver_sends_what_one_cannot(bucket: S3Server, tmp_path: Path) -> None:
    done = uploads.upload(bucket.client, named(bucket), item_of(LARGE), ".onnx", [Refuser(), local(tmp_path, LARGE)])
    assert done.source == "home" and body(bucket, done.key) == LARGE


@pytest.mark.parametrize("givers", [[], [Refuser()]])
def test_without_anybody_who_can_send_it_nothing_begins(bucket: S3Server, givers: list[Giver]) -> None:
    with pytest.raises(UploadFailed) as caught:
        uploads.upload(bucket.client, named(bucket), item_of(LARGE), ".onnx", givers)
    assert caught.value.cause == "no_source"
    assert keys(bucket) == [] and under_way(bucket) == 0


def test_who_no_longer_wants_it_leaves_nothing(bucket: S3Server, tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(UploadFailed) as caught:
        uploads.upload(
            bucket.client, named(bucket), item_of(LARGE), ".onnx", [local(tmp_path, LARGE)],
            cancelled=lambda: time.monotonic() > began,
        )  # fmt: skip
    assert caught.value.cause == "cancelled"
    assert keys(bucket) == [] and under_way(bucket) == 0


@pytest.mark.parametrize(
    "broken",
    [
        lambda request: 503 if request.method == "PUT" and "partNumber=2" in request.query else None,
        lambda request: "reset" if request.method == "GET" and ASIDE in request.key else None,
        lambda request: 500 if request.method == "PUT" and request.key.endswith(".onnx") else None,
        lambda request: 403 if request.method == "POST" else None,
    ],
    ids=["a part", "reading back", "naming", "beginning"],
)
def test_a_server_that_fails_has_no_half_object(
    s3_rclone: S3Server, tmp_path: Path, proxied: Callable[[S3Server], Proxy], broken: Callable[[Request], str | int | None]
) -> None:
    proxy = proxied(s3_rclone)
    proxy.fault = broken
    item, giver = item_of(LARGE), local(tmp_path, LARGE)
    with pytest.raises(UploadFailed) as caught:
        uploads.upload(client_of(proxy.endpoint), named(s3_rclone), item, ".onnx", [giver])
    assert caught.value.cause == "upload_failed"
    assert keys(s3_rclone) == []
    proxy.fault = lambda request: None
    done = uploads.upload(client_of(proxy.endpoint), named(s3_rclone), item, ".onnx", [giver])
    assert body(s3_rclone, done.key) == LARGE


@pytest.fixture
def host(tmp_path: Path) -> Iterator[RunningAgent]:
    """A host that holds both items."""
    folder = tmp_path / "tree/models"
    folder.mkdir(parents=True)
    for name, data in (("a", SMALL), ("b", LARGE)):
        (folder / f"{name}_hex8_2p.onnx").write_bytes(data)
    with running_agent(tmp_path / "tree", "n1", token="secret") as agent:
        deadline = time.monotonic() + 30
        while len(agent.source().read(None, 20).found) < 2:
            assert time.monotonic() < deadline
        yield agent


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "in parts"])
def test_a_host_without_keys_sends_it_itself(bucket: S3Server, host: RunningAgent, data: bytes) -> None:
    giver = RemoteCopy("n1", AgentClient(host.url, host.token, "n1"))
    done = uploads.upload(bucket.client, named(bucket), item_of(data), ".onnx", [giver])
    assert done.source == "n1" and body(bucket, done.key) == data
    assert giver.proves(item_of(data).sha256) is True


def test_a_host_that_died_is_no_source_and_one_that_changed_the_file_sends_nothing(s3_rclone: S3Server, host: RunningAgent) -> None:
    giver = RemoteCopy("n1", AgentClient(host.url, host.token, "n1"))
    (host.root / "models/a_hex8_2p.onnx").write_bytes(SMALL[::-1])
    with pytest.raises(UploadFailed) as changed:
        uploads.upload(s3_rclone.client, named(s3_rclone), item_of(SMALL), ".onnx", [giver])
    host.kill()
    with pytest.raises(UploadFailed) as dead:
        uploads.upload(s3_rclone.client, named(s3_rclone), item_of(LARGE), ".onnx", [giver])
    assert [error.value.cause for error in (changed, dead)] == ["no_source", "no_source"]
    assert keys(s3_rclone) == []


_UPLOADER = """
import sys
from pathlib import Path
from ringrift_dagster.cluster.topology import S3Place
from ringrift_dagster.transfer import uploads
from tests.s3_servers import client_of
from tests.transfer.test_uploads import LARGE, item_of
endpoint, bucket, path = sys.argv[1:]
print("begins", flush=True)
uploads.upload(client_of(endpoint), S3Place(bucket=bucket), item_of(LARGE), ".onnx", [uploads.LocalFile("home", Path(path))])
print("done", flush=True)
"""


def test_killed_in_the_middle_it_leaves_nothing_that_has_a_name(s3_rclone: S3Server, tmp_path: Path) -> None:
    """At several moments: while parts are sent, while they are read back, while the name is given."""
    item, giver, place = item_of(LARGE), local(tmp_path, LARGE), named(s3_rclone)
    killed = 0
    for pause in (0.0, 0.05, 0.1, 0.2, 0.4):
        command = [sys.executable, "-c", _UPLOADER, s3_rclone.endpoint, s3_rclone.bucket, str(giver.path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2], env=dict(os.environ))
        with process:
            assert process.stdout is not None and process.stdout.readline() == "begins\n"
            time.sleep(pause)
            process.kill()
        killed += process.returncode != 0
        standing = [key for key in keys(s3_rclone) if ASIDE not in key]
        assert standing in ([], [uploads.key_of(place, item, ".onnx")])
        assert all(body(s3_rclone, key) == LARGE for key in standing)
    assert killed
    assert uploads.sweep(s3_rclone.client, place, at=time.time()) == 0, "somebody may be at it still"
    uploads.sweep(s3_rclone.client, place, at=time.time() + 2 * uploads.LEFT_SECONDS)
    assert [key for key in keys(s3_rclone) if ASIDE in key] == [] and under_way(s3_rclone) == 0
    done = uploads.upload(s3_rclone.client, place, item, ".onnx", [giver])
    assert keys(s3_rclone) == [done.key] and body(s3_rclone, done.key) == LARGE


def test_another_prefix_is_another_place(s3_moto: S3Server, tmp_path: Path) -> None:
    place = S3Place(bucket=s3_moto.bucket, prefix="cold/ringrift")
    done = uploads.upload(s3_moto.client, place, item_of(SMALL), ".onnx", [local(tmp_path, SMALL)])
    assert done.key.startswith("cold/ringrift/models/hex8_2p_")

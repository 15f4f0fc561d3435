"""Ranges and bundles over HTTP: what is asked for comes, or it is said why not; the token goes to agents only."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ringrift_dagster.transfer.model import Offer, TransportName
from ringrift_dagster.transfer.transports import http_client
from ringrift_dagster.transfer.transports.http import HttpTransport
from ringrift_dagster.transfer.transports.protocol import FAILURE_CODES, TransportFailure
from ringrift_dagster.transfer.transports.s3 import S3Transport
from tests.transfer.faulty_servers import Faults, FaultyServer, faulty
from tests.transfer.fetching import content, offer

ITEM = content(3_000_000, 11)
MANY = [content(1000 * number, number) for number in range(20)]


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with faulty({each.sha256: each.data for each in [ITEM, *MANY]}, 1) as [running]:
        yield running


def never() -> bool:
    return False


def get(transport: HttpTransport | S3Transport, of: Offer, start: int, length: int, cancelled: Callable[[], bool] = never) -> bytes:
    came = bytearray()
    transport.fetch(of, start, length, came.extend, cancelled)
    return bytes(came)


def failure(transport: HttpTransport | S3Transport, of: Offer, start: int = 0, length: int = ITEM.size) -> TransportFailure:
    with pytest.raises(TransportFailure) as failed:
        get(transport, of, start, length)
    assert failed.value.code in FAILURE_CODES
    assert len(failed.value.detail) <= 300
    return failed.value


@pytest.mark.parametrize(("start", "length"), [(0, ITEM.size), (0, 1), (ITEM.size - 1, 1), (12345, 2_000_001), (7, 0)])
@pytest.mark.parametrize("kind", [HttpTransport, S3Transport])
def test_any_range_comes_and_the_connection_stays(server: FaultyServer, kind: type, start: int, length: int) -> None:
    transport = kind()
    of = offer(server.url(ITEM.sha256), "host")
    for _ in range(3):
        assert get(transport, of, start, length) == ITEM.data[start : start + length]
    assert server.connections == (1 if length else 0)
    transport.close()


def test_a_connection_that_was_closed_meanwhile_is_no_failure(server: FaultyServer) -> None:
    transport, of = HttpTransport(), offer(server.url(ITEM.sha256), "host")
    server.faults = Faults(hang_up=True)
    assert get(transport, of, 0, 100) == ITEM.data[:100]
    server.faults = Faults()
    assert get(transport, of, 100, 100) == ITEM.data[100:200]
    assert server.connections == 2


def test_the_token_goes_to_agents_and_not_to_buckets(server: FaultyServer) -> None:
    of = offer(server.url(ITEM.sha256), "host")
    get(HttpTransport("secret-token"), of, 0, 10)
    get(S3Transport(), of, 0, 10)
    assert [headers.get("Authorization") for headers in server.headers] == ["Bearer secret-token", None]


@pytest.mark.parametrize(
    ("faults", "code"),
    [
        (Faults(status=401), "unauthorized"), (Faults(status=403), "unauthorized"), (Faults(status=404), "not_found"),
        (Faults(status=410), "changed"), (Faults(status=500), "server_error"), (Faults(status=503), "server_error"),
        (Faults(redirect="http://127.0.0.1:1/"), "failed"), (Faults(other_range=True), "changed"),
        (Faults(etag="00" * 32), "changed"), (Faults(extra_size=-1), "changed"), (Faults(cut_after=70_000), "short"),
        (Faults(reset_after=70_000), "short"), (Faults(huge_head=True), "failed"),
    ],
)  # fmt: skip
def test_every_failure_has_its_code(server: FaultyServer, faults: Faults, code: str) -> None:
    server.faults = faults
    assert failure(HttpTransport("secret-token"), offer(server.url(ITEM.sha256), "host")).code == code


def test_a_refusal_is_told_in_the_agents_words_and_keeps_the_connection(server: FaultyServer) -> None:
    transport, of = HttpTransport(), offer(server.url(ITEM.sha256), "host")
    server.faults = Faults(status=503)
    assert failure(transport, of).detail == failure(transport, of).detail == "HTTP 503 faulty: as asked for"
    assert server.connections == 1


def test_a_server_without_ranges_gives_the_beginning_only(server: FaultyServer) -> None:
    server.faults = Faults(no_ranges=True)
    of = offer(server.url(ITEM.sha256), "host")
    assert get(HttpTransport(), of, 0, 1000) == ITEM.data[:1000]
    assert failure(HttpTransport(), of, 1, 1000).code == "failed"


@pytest.mark.parametrize("faults", [Faults(stall_after=0), Faults(stall_after=70_000), Faults(slow_head=20), Faults(drip=True)])
def test_a_stall_is_a_timeout(server: FaultyServer, faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "STALL_SECONDS", 0.4)
    server.faults = faults
    assert failure(HttpTransport(), offer(server.url(ITEM.sha256), "host")).code == "timeout"


@pytest.mark.parametrize("faults", [Faults(stall_after=0), Faults(stall_after=70_000), Faults(slow_head=20), Faults(rate=100_000)])
def test_cancelled_it_ends_soon(server: FaultyServer, faults: Faults) -> None:
    server.faults = faults
    gone = threading.Event()
    threading.Timer(0.2, gone.set).start()
    with pytest.raises(TransportFailure) as failed:
        get(HttpTransport(), offer(server.url(ITEM.sha256), "host"), 0, ITEM.size, gone.is_set)
    assert failed.value.code == "cancelled"


def test_what_writing_raises_passes_through(server: FaultyServer) -> None:
    def full(piece: memoryview) -> None:
        raise OSError(28, "no space left")

    with pytest.raises(OSError, match="no space"):
        HttpTransport().fetch(offer(server.url(ITEM.sha256), "host"), 0, ITEM.size, full, never)


@pytest.mark.parametrize(
    ("address", "codes"),
    [
        ("ftp://host/x", {"unreachable"}), ("nonsense", {"unreachable"}), ("http://", {"unreachable"}),
        ("http://[::1", {"unreachable"}), ("http://127.0.0.1:99999/x", {"unreachable"}), ("http://127.0.0.1:1/x", {"refused"}),
        ("http://no-such-host.invalid/x", {"unreachable"}), ("http://a b/x", {"unreachable", "failed"}),
        ("http://127.0.0.1:1/x\u2028y", {"refused", "failed"}),
    ],
)  # fmt: skip
def test_addresses_that_lead_nowhere(address: str, codes: set[str]) -> None:
    assert failure(HttpTransport(), offer(address, "host")).code in codes


def test_a_signature_is_never_told(server: FaultyServer) -> None:
    for address in (
        f"{server.base}/x?X-Amz-Signature=abc\u2028",
        f"{server.base}/x y?X-Amz-Signature=abc",
        "x:/?X-Amz-Signature=abc",
    ):
        assert "abc" not in str(failure(S3Transport(), offer(address, "cold", TransportName.S3)))


def test_what_answers_is_no_http(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            connection.recv(1000)
            connection.sendall(b"SSH-2.0-OpenSSH\r\n\r\n")
            connection.close()

        threading.Thread(target=answer, daemon=True).start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/x"
        assert failure(HttpTransport(), offer(address, "host")).code == "failed"


def test_probes(server: FaultyServer) -> None:
    transport, of = HttpTransport(), offer(server.url(ITEM.sha256), "host")
    probe = transport.probe(of, 5)
    assert probe.failure is None
    assert probe.latency is not None
    assert transport.probe(offer(server.url(MANY[0].sha256), "host"), 5).failure is None
    assert transport.probe(offer(server.url("ff"), "host"), 5).failure == "not_found"
    server.faults = Faults(slow_head=20)
    assert S3Transport().probe(of, 0.2).failure == "timeout"


class TestBundles:
    """Many small items in one answer."""

    def test_each_comes_once_with_its_size(self, server: FaultyServer) -> None:
        transport = HttpTransport()
        names = [each.sha256 for each in MANY] + ["ab" * 32]
        for _ in range(2):
            came = {sha256: (size, bytes(reader.read())) for sha256, size, reader in transport.fetch_bundle(server.base, names)}
            assert came == {each.sha256: (each.size, each.data) for each in MANY} | {"ab" * 32: (None, b"")}
        assert server.connections == 1

    def test_what_is_not_read_is_passed_over(self, server: FaultyServer) -> None:
        sizes = [size for _, size, _ in HttpTransport().fetch_bundle(server.base, [each.sha256 for each in MANY])]
        assert sizes == [each.size for each in MANY]

    def test_it_may_be_read_in_pieces_and_left(self, server: FaultyServer) -> None:
        buffer = memoryview(bytearray(600))
        bundle = HttpTransport().fetch_bundle(server.base, [MANY[1].sha256, MANY[2].sha256])
        _, _, reader = next(bundle)
        assert [reader.readinto(buffer), reader.readinto(buffer), reader.readinto(buffer)] == [600, 400, 0]
        assert bytes(buffer[:400]) == MANY[1].data[600:]
        bundle.close()  # type: ignore[attr-defined]

    @pytest.mark.parametrize(
        ("faults", "code"),
        [
            (Faults(cut_after=1), "short"), (Faults(status=401), "unauthorized"), (Faults(status=500), "server_error"),
            (Faults(etag="cd" * 32), "failed"), (Faults(extra_size=1 << 40), "changed"),
        ],
    )  # fmt: skip
    def test_failures(self, server: FaultyServer, faults: Faults, code: str) -> None:
        server.faults = faults
        with pytest.raises(TransportFailure) as failed:
            for _, _, reader in HttpTransport().fetch_bundle(server.base, [each.sha256 for each in MANY]):
                reader.read()
        assert failed.value.code == code

    @pytest.mark.parametrize("faults", [Faults(stall_after=1), Faults(drip=True)])
    def test_a_stall_is_a_timeout(self, server: FaultyServer, faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(http_client, "STALL_SECONDS", 0.4)
        server.faults = faults
        with pytest.raises(TransportFailure, match="timeout"):
            list(HttpTransport().fetch_bundle(server.base, [each.sha256 for each in MANY]))

    @pytest.mark.parametrize("names", [[], ["ab" * 32] * 501])
    def test_a_bundle_has_bounds(self, server: FaultyServer, names: list[str]) -> None:
        with pytest.raises(ValueError, match="500"):
            next(HttpTransport().fetch_bundle(server.base, names))


def test_both_say_what_they_are() -> None:
    assert (HttpTransport.name, S3Transport.name) == (TransportName.HTTP, TransportName.S3)


class TestEncrypted:
    """The same over TLS; whoever cannot show a certificate that we trust gets nothing, and no token."""

    @pytest.fixture
    def secure(self, tmp_path: Path) -> Iterator[tuple[FaultyServer, Path]]:
        certificate = tmp_path / "certificate.pem"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        command += [
            "-subj",
            "/CN=test",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-keyout",
            certificate,
            "-out",
            tmp_path / "cert",
        ]
        subprocess.run(command, check=True, capture_output=True)
        trusted = tmp_path / "trusted.pem"
        trusted.write_bytes((tmp_path / "cert").read_bytes())
        certificate.write_bytes(certificate.read_bytes() + trusted.read_bytes())
        with FaultyServer({ITEM.sha256: ITEM.data}, certificate) as server:
            yield server, trusted

    def test_ranges_come(self, secure: tuple[FaultyServer, Path], monkeypatch: pytest.MonkeyPatch) -> None:
        server, trusted = secure
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        transport, of = HttpTransport("secret-token"), offer(server.url(ITEM.sha256), "host")
        for _ in range(2):
            assert get(transport, of, 5, 2_000_000) == ITEM.data[5:2_000_005]
        assert server.connections == 1
        server.faults = Faults(cut_after=70_000)
        assert failure(transport, of).code == "short"

    def test_a_stranger_is_not_talked_to(self, secure: tuple[FaultyServer, Path]) -> None:
        server, _ = secure
        assert failure(HttpTransport("secret-token"), offer(server.url(ITEM.sha256), "host")).code == "unreachable"
        assert server.headers == []

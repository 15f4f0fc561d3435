"""Piece hashes, torrents and seeds of real agents, and pulls by every transport that needs them."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ringrift_dagster.manifest.inventory import CHUNK_SIZE, ItemType
from ringrift_dagster.manifest.sources.hashing import hash_file
from ringrift_dagster.manifest.sources.tree import mark_location
from ringrift_dagster.transfer.model import Offer, OrderedItem, PullState, TransportName
from ringrift_dagster.transfer.pieces import PiecesAnswer, compute
from tests.agents import RunningAgent
from tests.node.orders import ask, follow, give_model, item, looked, order, pull, served, submit
from tests.ssh_servers import ssh_server
from tests.transfer.processes import children, wait_until

Start = Callable[..., RunningAgent]
MODEL = "nnue_hex8_2p.onnx"


def offered(path: Path, given: Offer) -> OrderedItem:
    """What a model is, offered in one way."""
    hashed = hash_file(str(path))
    chunks = base64.b64encode(hashed.chunks).decode()
    return OrderedItem(sha256=hashed.sha256, size=hashed.size, type=ItemType.MODEL, name=path.name, chunks=chunks, offers=(given,))


def by(transport: TransportName, given: OrderedItem, **options: str) -> OrderedItem:
    """The same item, offered by another transport."""
    offers = tuple(each.model_copy(update={"transport": transport, "options": options}) for each in given.offers)
    return given.model_copy(update={"offers": offers})


def seed(agent: RunningAgent, body: object) -> tuple[int, dict]:
    answer = ask(agent, "/v1/seeds", "POST", json.dumps(body).encode())
    return answer.status, answer.json()


def test_piece_hashes_and_torrent_of_an_item(tree: Path, agent: Start) -> None:
    model = give_model(tree, "large_hex8_2p.onnx", CHUNK_SIZE + 5)
    running = agent(tree, "gpu-1", token="secret")
    looked([running])
    data = model.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    for _ in range(2):
        told = PiecesAnswer.model_validate_json(ask(running, f"/v1/objects/{sha256}/pieces").data)
        assert (told.sha256, told.size, told.length) == (sha256, len(data), CHUNK_SIZE)
        assert told.digests() == [hashlib.sha256(part).hexdigest() for part in (data[:CHUNK_SIZE], data[CHUNK_SIZE:])]
        with model.open("rb") as file:
            assert ask(running, f"/v1/objects/{sha256}/torrent").data == compute(file.fileno(), sha256, len(data)).torrent()
    running.token = None
    assert ask(running, f"/v1/objects/{sha256}/pieces").status == 401


def test_only_what_is_here_and_as_it_was_has_pieces(tree: Path, agent: Start) -> None:
    model = give_model(tree, "rotten_hex8_2p.onnx", CHUNK_SIZE)
    running = agent(tree, "gpu-1")
    looked([running])
    sha256, before = hashlib.sha256(model.read_bytes()).hexdigest(), model.stat()
    with model.open("r+b") as file:
        file.seek(1000)
        file.write(b"?")
    os.utime(model, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert [ask(running, f"/v1/objects/{sha256}/{what}").status for what in ("pieces", "torrent")] == [410, 410]
    assert ask(running, f"/v1/objects/{'0' * 64}/pieces").status == 404
    assert ask(running, "/v1/objects/no-hash/torrent").status == 400


def test_seeds(tree: Path, agent: Start) -> None:
    running = agent(tree, "gpu-1", "--bittorrent", "0")
    looked([running])
    sha256 = hashlib.sha256((tree / "models" / MODEL).read_bytes()).hexdigest()
    port = ask(running, "/v1/health").json()["bittorrent"]["port"]
    status, told = seed(running, {"sha256": sha256, "peers": ["192.0.2.7:6881"], "seconds": 60})
    assert (status, told["port"]) == (200, port)
    (seeding,) = ask(running, "/v1/seeds").json()["seeds"]
    assert (seeding["sha256"], seeding["until"], seeding["uploaded"]) == (sha256, told["until"], 0)
    assert ask(running, f"/v1/seeds/{sha256}", "DELETE").status == 200
    assert ask(running, "/v1/seeds").json()["seeds"] == []
    for wrong in (
        {"sha256": sha256, "peers": ["not an address"]},
        {"sha256": sha256, "peers": ["192.0.2.7:6881"] * 200},
        {"sha256": sha256, "seconds": 1e9},
        {"sha256": sha256, "port": 0},
        {"sha256": "no"},
        {"sha256": sha256, "path": "/etc/passwd"},
    ):
        assert seed(running, wrong)[0] == 400
    assert seed(running, {"sha256": "0" * 64})[0] == 404


def test_without_bittorrent_nothing_is_shared(tree: Path, agent: Start) -> None:
    running = agent(tree, "gpu-1")
    health = ask(running, "/v1/health").json()
    assert (health["bittorrent"], "bittorrent" in health["transports"]) == (None, False)
    assert seed(running, {"sha256": "0" * 64})[1]["error"] == "not_installed"
    assert ask(running, "/v1/seeds").status == 404


def test_a_pull_by_aria2_from_two_agents(tree: Path, agent: Start, tmp_path: Path) -> None:
    model, other = give_model(tree, MODEL, 3 * CHUNK_SIZE), tmp_path / "other"
    give_model(other, MODEL, 3 * CHUNK_SIZE)
    (tmp_path / "empty").mkdir()
    sources = [agent(tree, "gpu-1", token="secret"), agent(other, "gpu-2", token="secret")]
    target = agent(tmp_path / "empty", "gpu-3", token="secret")
    looked(sources)
    done = pull(target, by(TransportName.ARIA2, item(model, ItemType.MODEL, *sources)))
    assert [(each.state, each.transport, each.path) for each in done.items] == [
        (PullState.DONE, TransportName.ARIA2, f"models/{MODEL}")
    ]
    assert (tmp_path / "empty/models" / MODEL).read_bytes() == model.read_bytes()
    assert sum(map(served, sources)) >= 3 * CHUNK_SIZE
    started = list(children(target.process.pid))
    assert started
    target.kill()
    assert wait_until(lambda: not any(map(is_running, started)))


def test_pulls_by_bittorrent_bring_their_source_to_share(tree: Path, agent: Start, tmp_path: Path) -> None:
    model = give_model(tree, MODEL, 3 * CHUNK_SIZE)
    source = agent(tree, "gpu-1", "--bittorrent", "0", token="secret")
    looked([source])
    for name in ("gpu-2", "gpu-3"):
        (tmp_path / name).mkdir()
    targets = [agent(tmp_path / name, name, "--bittorrent", "0", token="secret") for name in ("gpu-2", "gpu-3")]
    ports = [ask(each, "/v1/health").json()["bittorrent"]["port"] for each in (source, *targets)]
    peers = " ".join(f"127.0.0.1:{port}" for port in ports)
    given = [order(by(TransportName.BITTORRENT, item(model, ItemType.MODEL, source), peers=peers)) for _ in targets]
    for target, each in zip(targets, given, strict=True):
        submit(target, each)
    for target, each in zip(targets, given, strict=True):
        (told,) = follow(target, each.id).items
        assert (told.state, told.transport, told.cause) == (PullState.DONE, TransportName.BITTORRENT, None)
        assert (target.root / "models" / MODEL).read_bytes() == model.read_bytes()
        assert [each["sha256"] for each in ask(target, "/v1/seeds").json()["seeds"]] == [told.sha256]
    assert served(source) == 0


def test_a_pull_from_a_host_without_an_agent(tree: Path, agent: Start, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    target = agent(tmp_path / "empty", "gpu-3")
    model = give_model(tree, MODEL, CHUNK_SIZE + 5)
    with ssh_server(tmp_path / "ssh") as server:
        (told,) = pull(target, offered(model, server.offer(model))).items
    assert (told.state, told.transport, told.source) == (PullState.DONE, TransportName.RSYNC, "gpu-1")
    assert (tmp_path / "empty/models" / MODEL).read_bytes() == model.read_bytes()


@pytest.mark.parametrize("named_by_hash", [True, False])
def test_a_pull_from_what_both_hosts_see(named_by_hash: bool, agent: Start, tmp_path: Path) -> None:
    nfs = tmp_path / "nfs"
    model = give_model(nfs, MODEL, CHUNK_SIZE + 5)
    if named_by_hash:
        model = model.rename(model.with_name(f"hex8_2p_{hashlib.sha256(model.read_bytes()).hexdigest()[:12]}.onnx"))
    mark_location(nfs, "lambda-nfs")
    (tmp_path / "empty").mkdir()
    target = agent(tmp_path / "empty", "gpu-3", "--shared", f"lambda-nfs={nfs}")
    shared = Offer(transport=TransportName.SHARED, location="lambda-nfs", address=f"models/{model.name}")
    (told,) = pull(target, offered(model, shared)).items
    assert (told.state, told.transport, told.source) == (PullState.DONE, TransportName.SHARED, "lambda-nfs")
    pulled = tmp_path / "empty/models" / model.name
    assert pulled.read_bytes() == model.read_bytes()
    assert pulled.samefile(model) == named_by_hash


def is_running(pid: int) -> bool:
    """Whether a process is there that is no zombie."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False

"""Who is offered for an item, by what, in which order: from what the manifest and the hosts file say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from ringrift_dagster.cluster.hosts import load_hosts
from ringrift_dagster.cluster.topology import Place
from ringrift_dagster.home import Home
from ringrift_dagster.manifest.inventory import ItemType
from ringrift_dagster.manifest.locations import register
from ringrift_dagster.manifest.plane import HOME_LOCATION, Plane
from ringrift_dagster.manifest.store import Store
from ringrift_dagster.transfer import queue
from ringrift_dagster.transfer.agents import Agents
from ringrift_dagster.transfer.model import Offer, Priority, TransportName
from ringrift_dagster.transfer.offers import SWARM_BYTES, Goods, Offering, goods_of, receivers_of
from ringrift_dagster.transfer.operations import Kind, Wanted
from tests.agents import running_agent
from tests.manifest.telling import dies, digest_of, item, tell
from tests.s3_servers import client_of, closed_port

HOSTS = """
sync_routing:
  s3: {{bucket: cold-store{flags}}}
  allowed_external_storage: [{{name: owc, host: mac, path: /Volumes/owc}}]
shared_storage: [{{name: nfs, path: /lambda/nfs, hosts: [lambda-1, lambda-2]}}]
{sections}
hosts:
  lambda-1: {{data_server_url: "{url}", rack: west, ringrift_path: /data}}
  lambda-2: {{data_server_url: "{url}", rack: west, ringrift_path: /data}}
  vast-1: {{data_server_url: "{url}", ssh_host: ssh4.vast.ai, ssh_port: 14398, ssh_user: root, ssh_key: ~/.ssh/id_cluster}}
  vast-2: {{data_server_url: "{url}", ssh_host: ubuntu@10.0.0.2, ringrift_path: /data}}
  vast-3: {{data_server_url: "{url}", ssh_host: "fd7a::1", ringrift_path: ./odd}}
  mac: {{data_server_url: "{url}", is_coordinator: true, ringrift_path: /data}}
"""
PATH = "data/training/hex8_2p.npz"
X = digest_of("x")


class World:
    """A plane whose hosts' agents are silent, unless there is an address where one answers."""

    def __init__(self, store: Store, tmp_path: Path, sections: str = "", flags: str = "", url: str = "") -> None:
        path = tmp_path / "hosts.yaml"
        path.write_text(HOSTS.format(url=url or closed_port(), sections=sections, flags=flags))
        cluster = load_hosts(path)
        self.plane = Plane(Home(tmp_path / "home"), cluster, store, lambda: client_of("http://127.0.0.1:9"))
        register(store, [*cluster.locations(), _home(tmp_path)], at=0.0)

    def goods(self, host: str, sha256: str = X) -> Goods:
        return goods_of(self.plane.store, [sha256], host)[sha256]

    def offers(self, host: str, target: str | None = None, receivers: tuple[str, ...] = (), sha256: str = X) -> list[Offer]:
        agents = Agents(self.plane.cluster, None)
        return Offering(self.plane, agents, target or host, host).of(self.goods(host, sha256), receivers)

    def ways(self, host: str, target: str | None = None, **other: str) -> list[str]:
        return [f"{offer.transport} {offer.location}" for offer in self.offers(host, target, **other)]


def _home(tmp_path: Path) -> Place:
    return Place(HOME_LOCATION, "disk", str(tmp_path / "home"))


@pytest.fixture
def world(store: Store, tmp_path: Path) -> Iterator[Callable[..., World]]:
    yield lambda *holders, **options: _holding(World(store, tmp_path, **options), *holders)


def _holding(world: World, *holders: str) -> World:
    """All places answer; those that are named hold the item."""
    for place in world.plane.cluster.locations():
        held = [item(PATH, "x")] if place.name in holders else []
        tell(world.plane.store, place.name, held, at=10, latency=1.0 + len(place.name) / 10)
    if HOME_LOCATION in holders:
        tell(world.plane.store, HOME_LOCATION, [item("datasets/x.npz", "x")], at=10)
    return world


def test_nearest_first_by_http_then_the_bucket_then_ssh(world: Callable[..., World]) -> None:
    here = world("lambda-1", "vast-1", "vast-2", "owc", "cold-store")
    assert here.ways("lambda-2") == [
        "http lambda-1", "http owc", "http vast-1", "http vast-2", "s3 cold-store", "rsync vast-1", "rsync vast-2",
    ]  # fmt: skip
    assert here.ways("vast-2")[0] == "http vast-1", "of the same provider"


def test_addresses_are_what_the_transports_understand(world: Callable[..., World]) -> None:
    here = world("vast-1", "vast-2", "owc", "cold-store")
    found = {f"{offer.transport} {offer.location}": offer for offer in here.offers("lambda-2")}
    assert found["http owc"].address == f"{here.plane.cluster.hosts['mac'].agent_url}/v1/objects/{X}"
    assert found["rsync vast-1"].address == f"root@ssh4.vast.ai:/root/ringrift/ai-service/{PATH}"
    assert found["rsync vast-1"].options == {"port": "14398", "key": "~/.ssh/id_cluster"}
    assert found["rsync vast-2"].address == f"ubuntu@10.0.0.2:/data/{PATH}"
    url = urlsplit(found["s3 cold-store"].address)
    assert url.path == f"/cold-store/{PATH}" and "X-Amz-Signature" in parse_qs(url.query)


def test_no_secret_is_in_an_offer(world: Callable[..., World]) -> None:
    said = "".join(offer.model_dump_json() for offer in world("vast-1", "cold-store").offers("lambda-2"))
    assert "testsecretkey" not in said


def test_a_silent_host_is_offered_by_ssh_alone_and_last(world: Callable[..., World]) -> None:
    here = world("vast-1", "vast-2")
    dies(here.plane.store, "vast-1", at=20)
    assert here.ways("lambda-1") == ["http vast-2", "rsync vast-2", "rsync vast-1"]


def test_a_host_whose_directory_cannot_be_told_has_no_rsync(world: Callable[..., World]) -> None:
    assert world("vast-3").ways("lambda-1") == ["http vast-3"]


def test_the_bucket_gives_what_the_hosts_file_lets_it_give(world: Callable[..., World]) -> None:
    assert world("cold-store", flags=", pull_training_npz: false").ways("lambda-1") == []


def test_the_projects_own_home_is_served_by_the_coordinators_agent(world: Callable[..., World]) -> None:
    here = world(HOME_LOCATION)
    (offer,) = here.offers("vast-1")
    assert (offer.transport, offer.location) == (TransportName.HTTP, HOME_LOCATION)
    assert offer.address.startswith(str(here.plane.cluster.hosts["mac"].agent_url))


def test_a_file_system_that_the_receiver_sees_is_in_place(world: Callable[..., World]) -> None:
    here = world("nfs", "vast-1")
    source = here.goods("lambda-2").in_place
    assert source is not None and source.location == "nfs"
    assert here.goods("vast-1").in_place is None
    assert here.ways("vast-2")[:2] == ["http vast-1", "http nfs"]


def test_between_places_of_one_host_nothing_goes_over_the_network_first(world: Callable[..., World]) -> None:
    assert world("mac", "vast-1").ways("mac", "owc")[0] == "shared mac"


def test_its_own_copy_is_offered_only_if_there_is_no_other(world: Callable[..., World]) -> None:
    assert world("vast-1").ways("vast-1") == ["http vast-1"]
    assert world("vast-1", "vast-2").ways("vast-1") == ["http vast-2", "rsync vast-2"]


def test_an_operator_prefers(world: Callable[..., World]) -> None:
    here = world("vast-1", "cold-store", sections='transports: [{prefer: [aria2, s3], hosts: ["lambda-*"], types: [NPZ]}]')
    assert here.ways("lambda-1") == ["aria2 vast-1", "s3 cold-store", "http vast-1", "rsync vast-1"]
    assert here.ways("vast-2")[0] == "http vast-1"
    aria2, _, http, _ = here.offers("lambda-1")
    assert aria2.address == http.address


def test_doubted_and_lost_copies_are_offered_to_nobody(world: Callable[..., World]) -> None:
    here = world("vast-1", "vast-2")
    tell(here.plane.store, "vast-1", [item(PATH, "y")], at=30)
    tell(here.plane.store, "vast-2", [item(PATH, "x", damaged=True)], at=30)
    assert here.ways("lambda-1") == []


def test_what_the_manifest_does_not_know_is_no_goods(world: Callable[..., World]) -> None:
    assert goods_of(world("vast-1").plane.store, [digest_of("nobody's")], "lambda-1") == {}


def test_who_wants_what_is_counted_once(world: Callable[..., World]) -> None:
    store = world("vast-1").plane.store
    for kind, target in ((Kind.SYNC, "lambda-1"), (Kind.PRELOAD, "lambda-1"), (Kind.SYNC, "vast-2")):
        queue.submit(store, Wanted(kind, X, target, Priority.LOW), at=1.0)
    assert receivers_of(store, [X, digest_of("y")]) == {X: {"lambda-1", "vast-2"}}


def test_only_what_the_receiver_can_pull_by_is_offered(store: Store, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    with running_agent(tmp_path / "tree", "lambda-1", "--bittorrent", "0") as agent:
        world = _holding(World(store, tmp_path, url=agent.url), "vast-1")
        agents = Agents(world.plane.cluster, None)
        health = agents.health("lambda-1")
        assert health is not None and health.transports and health.bittorrent is not None
        assert {offer.transport for offer in world.offers("lambda-1")} <= set(health.transports)
        assert agents.health("vast-1") is None, "another one answers at its address"


def test_a_swarm_is_for_large_items_that_many_want(store: Store, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    large = item("models/big_hex8_2p.onnx", "x", size=SWARM_BYTES, type=ItemType.MODEL)
    with running_agent(tmp_path / "tree", "vast-1", "--bittorrent", "0") as agent:
        world = World(store, tmp_path, url=agent.url)
        for place in world.plane.cluster.locations():
            tell(store, place.name, [large] if place.name == "vast-1" else [], at=10)
        many = ("lambda-1", "lambda-2", "vast-2")
        first = world.offers("lambda-1", receivers=many)[0]
        assert (first.transport, first.location) == (TransportName.BITTORRENT, "vast-1")
        assert first.address == f"{agent.url}/v1/objects/{X}"
        peers = first.options["peers"].split()
        assert [peer.rpartition(":")[0] for peer in peers] == ["127.0.0.1"]
        assert world.offers("lambda-1", receivers=many[:2])[0].transport == TransportName.HTTP

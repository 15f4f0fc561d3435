"""The hosts file as RingRift writes it: every field, every limit, and every mistake with its line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import get_args

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ringrift_dagster.cli.hosts import default_hosts_file, hosts
from ringrift_dagster.cluster import fields, located_yaml
from ringrift_dagster.cluster.hosts import Cluster, HostsFileError, Place, Ssh, Thresholds, load_hosts
from ringrift_dagster.manifest import inventory

DATA = Path(__file__).parents[1] / "data" / "hosts"
TEMPLATE = DATA / "template.yaml"
EXAMPLE = DATA / "example.yaml"
MANIFEST_NAME = get_args(inventory.Name)[1].pattern


@pytest.fixture(scope="module")
def template() -> Cluster:
    return load_hosts(TEMPLATE)


@pytest.fixture(scope="module")
def published() -> Cluster:
    return load_hosts(EXAMPLE)


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str], Cluster]:
    """The cluster that a text describes."""

    def from_text(text: str) -> Cluster:
        path = tmp_path / "hosts.yaml"
        path.write_text(text)
        return load_hosts(path)

    return from_text


@pytest.fixture
def problems(tmp_path: Path) -> Callable[[str | bytes], list[str]]:
    """What is wrong with a text: `LINE: FIELD: what`."""

    def of_text(text: str | bytes) -> list[str]:
        path = tmp_path / "hosts.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        with pytest.raises(HostsFileError) as caught:
            load_hosts(path)
        assert str(caught.value) == "\n".join(caught.value.problems)
        assert all(line.startswith(f"{path}:") and "\n" not in line for line in caught.value.problems)
        return [line.removeprefix(f"{path}:") for line in caught.value.problems]

    return of_text


Load = Callable[[str], Cluster]
Problems = Callable[[str | bytes], list[str]]


def test_thresholds_are_those_of_the_file(template: Cluster) -> None:
    assert template.thresholds.model_dump() == {
        "max_disk_usage_percent": 72,
        "target_disk_usage_percent": 58,
        "min_free_disk_percent": 12.5,
        "replication_target": 4,
    }


def test_sections_of_the_template(template: Cluster) -> None:
    sync, elo = template.auto_sync, template.elo_sync
    assert (sync.enabled, sync.interval_seconds, sync.gossip_interval_seconds, sync.skip_nfs_sync) == (True, 45, 20, False)
    assert (sync.max_concurrent_syncs, sync.min_games_to_sync, sync.bandwidth_mb_s, sync.exclude_hosts) == (2, 5, 80, ())
    assert sync.bandwidth_by_pattern == {"vast-slow-*": 5, "vast-*": 80, "hetzner-*": 30}
    assert (elo.coordinator, elo.sync_port, elo.sync_interval, elo.divergence_threshold) == ("mac-lead", 8799, 120, 40)
    assert elo.transports == ("tailscale", "http")
    assert template.p2p_voters == ("lambda-one", "hetzner-one")
    assert template.priority_hosts == ("lambda-one", "not-there-yet")
    assert template.underserved_configs == ("square19_4p", "hexagonal_3p")
    assert (template.s3, template.shared, template.provider_timeouts) == (None, (), {})


def test_sections_of_the_example(published: Cluster) -> None:
    s3 = published.s3
    assert s3 is not None
    assert (s3.enabled, s3.bucket, s3.region, s3.prefix, s3.sync_interval) == (True, "test-bucket", "eu-west-1", "all", 600)
    assert (s3.pull_games, s3.pull_training_npz, s3.pull_models, s3.push_enabled_hosts) == (True, False, True, ("lead",))
    assert (s3.primary_for_games, s3.primary_for_models, s3.primary_for_npz) == (True, False, True)
    vast = published.provider_timeouts["vast"]
    assert (vast.peer_timeout, vast.heartbeat_interval, vast.reason) == (90, 15, "CGNAT")
    assert published.excluded_hosts == ("box-three", "box-two"), "of both sections"
    assert published.underserved_configs == (), "an empty field counts as not written"
    assert published.coordinator == "lead", "by its role, as nobody is named"
    assert [(shared.name, shared.path, shared.hosts) for shared in published.shared] == [
        ("lambda-nfs", "/lambda/nfs/games", ("box-one", "box-two", "box-four"))
    ]


def test_a_host_with_every_field(template: Cluster) -> None:
    host = template.hosts["lambda-one"]
    assert (host.gpu, host.gpu_vram_gb, host.role, host.status) == ("GH200 (96 GB)", 96, "gpu_training_primary", "ready")
    assert (host.training, host.selfplay, host.p2p, host.nat_blocked, host.force_relay) == (True, True, True, True, True)
    assert (host.relay_primary, host.relay_secondary) == ("hetzner-one", None)
    lead = template.hosts["mac-lead"]
    assert (lead.coordinator, lead.gpu, lead.memory_gb, lead.cpus, lead.selfplay) == (True, "", 48, 12, False)
    assert template.hosts["nebius-one"].provider_ids == {"nebius": "computeinstance-x1"}
    assert [host.name for host in template.hosts.values() if host.ephemeral] == ["vast-777"]
    assert [host.name for host in template.hosts.values() if not host.active] == ["runpod-old"]


def test_what_a_host_does_not_say_has_ringrifts_defaults(load: Load) -> None:
    host = load("hosts: {plain: {}}").hosts["plain"]
    assert host.ssh == Ssh(None, "ubuntu", 22, None)
    assert (host.root, host.data_server_port, host.status, host.role) == ("~/ringrift/ai-service", 8766, "unknown", "unknown")
    assert (host.active, host.selfplay, host.training, host.p2p, host.nfs, host.coordinator) == (
        True,
        True,
        False,
        True,
        False,
        False,
    )
    assert (host.best_ip, host.agent_url, host.rack, host.provider) == (None, None, None, "unknown")


def test_flags_of_the_example(published: Cluster) -> None:
    assert [host.name for host in published.hosts.values() if host.nfs] == ["box-one", "box-two"]
    assert [host.name for host in published.hosts.values() if host.skip_sync_receive] == ["lead"]


@pytest.mark.parametrize(
    ("entry", "provider"),
    [
        ("vast-1: {}", "vast"),
        ("Runpod-h100: {}", "runpod"),
        ("aws-proxy: {}", "aws"),
        ("vultr-a100: {}", "vultr"),
        ("mac-studio: {}", "local"),
        ("macbook: {}", "local"),
        ("localhost: {}", "local"),
        ("box: {vast_instance_id: '5'}", "vast"),
        ("box: {vast_instance_id: 5}", "vast"),
        ("box: {aws_instance_id: i-5}", "aws"),
        ("box: {hetzner_id: five}", "hetzner"),
        ("box: {runpod_id: five}", "runpod"),
        ("box: {provider: Lambda}", "lambda"),
        ("box: {provider: spot}", "unknown"),
        ("nebius-1: {vast_instance_id: '5'}", "nebius"),
        ("machine: {}", "unknown"),
    ],
)
def test_provider(load: Load, entry: str, provider: str) -> None:
    (host,) = load(f"hosts: {{ {entry} }}").hosts.values()
    assert host.provider == provider


@pytest.mark.parametrize(
    ("fields", "url", "ssh_host"),
    [
        ("tailscale_ip: 100.64.0.1, ssh_host: 10.0.0.1", "http://100.64.0.1:8766", "10.0.0.1"),
        ("ssh_host: 10.0.0.1, data_server_port: 9000", "http://10.0.0.1:9000", "10.0.0.1"),
        ("ssh_host: me@box.example.org", "http://box.example.org:8766", "box.example.org"),
        ("tailscale_ip: 'fd7a:115c::1'", "http://[fd7a:115c::1]:8766", None),
        ("ssh_host: '[fd7a:115c::1]'", "http://[fd7a:115c::1]:8766", "fd7a:115c::1"),
        ("tailscale_ipv6: 'fd7a:115c::1'", "http://[fd7a:115c::1]:8766", None),
        ("ssh_host: 10.0.0.1, data_server_url: 'https://data.example.org/'", "https://data.example.org", "10.0.0.1"),
        ("ssh_host: 100.x.x.x, tailscale_ip: ''", None, None),
        ("ssh_host: 100.64.X.X, data_server_url: 'http://<public-ip>:8780'", None, None),
        ("tailscale_ip: <tailscale-ip>, ssh_host: ' 10.0.0.1 '", "http://10.0.0.1:8766", "10.0.0.1"),
        ("tailscale_ip: ~, ssh_host: x.example.org", "http://x.example.org:8766", "x.example.org"),
    ],
)
def test_addresses(load: Load, fields: str, url: str | None, ssh_host: str | None) -> None:
    host = load(f"hosts: {{ box: {{ {fields} }} }}").hosts["box"]
    assert (host.agent_url, host.ssh.host) == (url, ssh_host)


def test_a_user_before_the_address_wins(template: Cluster) -> None:
    assert template.hosts["vast-777"].ssh == Ssh("ssh7.example.org", "root", 23456, None)


def test_the_rack_is_the_region_unless_it_is_written(template: Cluster) -> None:
    racks = {host.name: host.rack for host in template.hosts.values() if host.rack}
    assert racks == {"nebius-one": "hall-2", "hetzner-one": "eu-central"}


def test_hosts_that_play_are_the_active_ones_that_are_no_proxies_and_not_switched_off(load: Load) -> None:
    cluster = load(
        """hosts:
  gpu-1: {status: ready}
  gone: {status: retired}
  trainer: {status: ready, selfplay_enabled: false}
  relay: {status: ready, role: proxy}
  gpu-2: {status: ready, selfplay_enabled: true, role: gpu_selfplay}
"""
    )
    assert [host.name for host in cluster.selfplay_hosts] == ["gpu-1", "gpu-2"]


def test_storage_paths(template: Cluster, published: Cluster) -> None:
    lead = template.hosts["mac-lead"]
    assert (lead.storage_path("games"), lead.storage_path("databases")) == ("/Volumes/Games/all_games",) * 2
    assert (lead.storage_path("npz"), lead.storage_path("training_data")) == ("~/Games/ai-service/data/training",) * 2
    vast = template.hosts["vast-777"]
    kinds = ("games", "models", "training_data", "checkpoints", "logs", "sync_incoming")
    assert [(vast.storage_path(kind) or "").removeprefix("/workspace/ringrift/ai-service/") for kind in kinds] == [
        "data/games", "models", "data/training", "checkpoints", "logs", "data/sync_incoming",
    ]  # fmt: skip
    assert [published.hosts["lead"].storage_path(kind) for kind in kinds] == [
        f"/mnt/archive/{folder}"
        for folder in ("selfplay_repository", "canonical_models", "canonical_data", "model_checkpoints", "logs", "cluster_games")
    ]
    assert template.hosts["gate"].storage_path("games") is None
    with pytest.raises(ValueError, match="'films' is none of games, "):
        vast.storage_path("films")


def test_bandwidth_of_the_template(template: Cluster) -> None:
    assert {host.name: host.bandwidth_mb_s for host in template.hosts.values()} == {
        "mac-lead": 100,  # its provider: local
        "lambda-one": 100,  # its provider
        "nebius-one": 80,  # its own, although it is the file's limit too
        "vast-777": 80,  # its pattern, although it is the file's limit too
        "hetzner-one": 30,  # its pattern
        "gate": 80,  # the file's limit
        "runpod-old": 100,  # its provider
    }


SPEEDS = st.integers(1, 1000)


@given(
    name=st.sampled_from(["vast-1", "vultr-2", "hetzner-3", "box"]),
    own=st.none() | st.just(0) | SPEEDS,
    patterns=st.dictionaries(st.sampled_from(["vast-*", "v*", "*-3", "[bh]*", "box", "VAST-*"]), SPEEDS),
    tailscale=st.booleans(),
    limit=SPEEDS,
)
def test_bandwidth_is_the_first_that_says_anything(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    own: int | None,
    patterns: dict[str, int],
    tailscale: bool,
    limit: int,
) -> None:
    host = {"bandwidth_mbps": own, "tailscale_ip": "100.64.0.9" if tailscale else None}
    path = tmp_path_factory.getbasetemp() / "bandwidth.yaml"
    sync = {"bandwidth_limit_mbps": limit, "host_bandwidth_overrides": patterns}
    path.write_text(yaml.safe_dump({"auto_sync": sync, "hosts": {name: host}}, sort_keys=False))
    by_provider = {"vast-1": 50, "vultr-2": 25, "hetzner-3": 100}
    matching = [speed for pattern, speed in patterns.items() if fnmatchcase(name, pattern)]
    candidates = [own, *matching, by_provider.get(name), 100 if tailscale else None, limit]
    assert load_hosts(path).hosts[name].bandwidth_mb_s == next(speed for speed in candidates if speed)


def test_drives_of_the_template(template: Cluster) -> None:
    (drive,) = template.drives
    assert (drive.name, drive.host, drive.path) == ("mac-lead-drive", "mac-lead", "/Volumes/Games")
    assert (drive.receive_games, drive.receive_npz, drive.receive_models) == (True, True, False)
    assert {kind: drive.folders[kind] for kind in ("games", "training_data", "models")} == {
        "games": "all_games",
        "training_data": "canonical_data",
        "models": "canonical_models",
    }


def test_a_drive_that_nobody_listed_is_known_and_receives_nothing(published: Cluster) -> None:
    assert [(drive.name, drive.path, drive.receive_games) for drive in published.drives] == [
        ("archive", "/mnt/archive", True),
        ("lead-drive-2", "/mnt/second", False),
        ("box-four-drive", "/mnt/off", True),
        ("box-three-drive", "/mnt/unlisted", False),
    ]


def test_locations_of_the_template(template: Cluster) -> None:
    places = template.locations()
    assert [(place.name, place.kind) for place in places] == [
        *((name, "host") for name in ("mac-lead", "lambda-one", "nebius-one", "vast-777", "hetzner-one")),
        ("mac-lead-drive", "drive"),
    ]
    assert places[3] == Place(
        "vast-777", "host", "/workspace/ringrift/ai-service/", "vast", None, "gpu_selfplay", True, None, ("vast-777",)
    )
    assert places[5] == Place("mac-lead-drive", "drive", "/Volumes/Games", "local", via="mac-lead", hosts=("mac-lead",))


def test_locations_of_the_example(published: Cluster) -> None:
    places = {place.name: place for place in published.locations()}
    assert list(places) == [
        "lead", "box-one", "box-two", "box-three", "archive", "lead-drive-2", "box-three-drive", "lambda-nfs", "test-bucket",
    ]  # fmt: skip
    assert places["lambda-nfs"] == Place(
        "lambda-nfs", "shared", "/lambda/nfs/games", "lambda", "west", hosts=("box-one", "box-two")
    )
    assert places["test-bucket"] == Place("test-bucket", "s3", "all", "aws", "eu-west-1")


def test_a_bucket_that_is_switched_off_is_no_location(load: Load) -> None:
    cluster = load("sync_routing: {s3: {enabled: false, bucket: some-bucket}}\nhosts: {a: {}}")
    assert cluster.s3 is not None
    assert [place.name for place in cluster.locations()] == ["a"]


def test_warnings_name_file_line_and_field(template: Cluster, published: Cluster) -> None:
    assert template.warnings == (
        f"{TEMPLATE}:18: sync_routing.priority_hosts[1]: not-there-yet is not among the hosts",
        f"{TEMPLATE}:73: hosts.lambda-one.tailscale_ip: '100.x.x.x' is a placeholder: counts as no address",
    )
    assert [re.sub(r"^.*\.yaml:", "", warning) for warning in published.warnings] == [
        "2: sync_routing.max_disk_usage_percent: 15 % must stay free: full at 85 %",
        "42: p2p_voters[1]: voter-nine is not among the hosts",
        "59: hosts.lead.ssh_host: '<lead-ip>' is a placeholder: counts as no address",
        "60: hosts.lead.tailscale_ip: '<lead-tailscale-ip>' is a placeholder: counts as no address",
        "71: hosts.box-one.tailscale_ip: '<tailscale-ip>' is a placeholder: counts as no address",
        "75: hosts.box-one.relay_primary: voter-nine is not among the hosts",
    ]


def test_every_reference_to_a_host_is_checked(load: Load) -> None:
    cluster = load(
        """\
sync_routing:
  excluded_hosts: [no1]
  priority_hosts: [no2]
  s3: {bucket: some-bucket, push_enabled_hosts: [no3]}
  allowed_external_storage:
    - {host: no4, path: /x}
  shared_storage: [{name: nfs, path: /y, hosts: [no5]}]
auto_sync: {exclude_hosts: [no6]}
elo_sync: {coordinator: no7}
p2p_voters: [no8]
hosts:
  a:
    relay_secondary: no9
"""
    )
    found = [re.search(r":(\d+): (\S+): (\S+) is not among the hosts$", warning) for warning in cluster.warnings]
    assert [match.groups() for match in found if match] == [
        ("2", "sync_routing.excluded_hosts[0]", "no1"),
        ("3", "sync_routing.priority_hosts[0]", "no2"),
        ("4", "sync_routing.s3.push_enabled_hosts[0]", "no3"),
        ("6", "sync_routing.allowed_external_storage[0].host", "no4"),
        ("7", "sync_routing.shared_storage[0].hosts[0]", "no5"),
        ("8", "auto_sync.exclude_hosts[0]", "no6"),
        ("9", "elo_sync.coordinator", "no7"),
        ("10", "p2p_voters[0]", "no8"),
        ("13", "hosts.a.relay_secondary", "no9"),
    ]
    assert cluster.coordinator is None
    assert [place.name for place in cluster.locations()] == ["a", "some-bucket"]


def test_two_hosts_behind_one_gateway_are_doubtful(load: Load) -> None:
    cluster = load("hosts:\n  a: {ssh_host: gw.example.org, ssh_port: 1}\n  b: {ssh_host: gw.example.org, ssh_port: 2}\n")
    assert cluster.warnings[0].endswith(
        ":3: hosts.b: same agent address as a, http://gw.example.org:8766: give it a data_server_url"
    )


def test_of_two_coordinators_the_first_is_taken(load: Load) -> None:
    cluster = load("hosts:\n  a: {role: coordinator}\n  b: {is_coordinator: true}\n  c: {is_coordinator: true}\n")
    assert cluster.coordinator == "b"
    assert cluster.warnings[0].endswith(":4: hosts.c: b is taken for the coordinator")


def test_all_problems_at_once_each_with_line_and_field(problems: Problems) -> None:
    assert problems(
        """\
sync_routing:
  max_disk_usage_percent: "85"
  replication_target: 0
  underserved_configs: [sq8_2p, hex9]
  s3: {enabled: true}
  allowed_external_storage:
    - {path: /x, subdirs: {games: ../up}}
auto_sync:
  host_bandwidth_overrides: {"vast-*": 0}
hosts:
  a: {ssh_port: 70000, selfplay_enabled: "no", ssh_host: "-oProxyCommand=x"}
  "b c": {}
  d: 7
  e:
    region: 5
    status: off
    tailscale_ip: 100.64.0.300
    memory_gb: true
    storage_paths: [x]
"""
    ) == [
        "2: sync_routing.max_disk_usage_percent: must be a number, not '85'",
        "3: sync_routing.replication_target: must be greater than or equal to 1, not 0",
        "4: sync_routing.underserved_configs[1]: no config key in 'hex9'; expected one of square8_2p, square8_3p, square8_4p, "
        "square19_2p, square19_3p, square19_4p, hex8_2p, hex8_3p, hex8_4p, hexagonal_2p, hexagonal_3p, hexagonal_4p",
        "5: sync_routing.s3.bucket: is missing",
        "7: sync_routing.allowed_external_storage[0].host: is missing",
        "7: sync_routing.allowed_external_storage[0].subdirs.games: has characters or a form that is not allowed here, not '../up'",
        "9: auto_sync.host_bandwidth_overrides.vast-*: must be greater than 0, not 0",
        "11: hosts.a.ssh_host: must be a host name or an IP address, not '-oProxyCommand=x'",
        "11: hosts.a.ssh_port: must be less than or equal to 65535, not 70000",
        "11: hosts.a.selfplay_enabled: must be true or false, not 'no'",
        "12: hosts.b c: is no name of a host: letters, digits and . _ : - only, at most 100",
        "13: hosts.d: must be a mapping, not 7",
        "15: hosts.e.region: must be text, not 5",
        "16: hosts.e.status: must be text, not false",
        "17: hosts.e.tailscale_ip: must be a host name or an IP address, not '100.64.0.300'",
        "18: hosts.e.memory_gb: must be a number, not true",
        "19: hosts.e.storage_paths: must be a mapping",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1: hosts: is missing"),
        ("# nothing\n", "1: hosts: is missing"),
        ("hosts:\n", "1: hosts: is missing"),
        ("sync_routing: {}\n", "1: hosts: is missing"),
        ("- a\n", "1: (file): must be a mapping"),
        ("just text", "1: (file): must be a mapping, not 'just text'"),
        ("hosts: [a]", "1: hosts: must be a mapping"),
        ("hosts:\n  a: {}\n  b: {}\n  a: {}\n", "4: hosts.a: stands twice, first at line 2"),
        ("hosts:\n  a:\n    role: x\n    role: x\n", "4: hosts.a.role: stands twice, first at line 3"),
        ("hosts:\n  5: {}\n", "2: hosts: a key that is not text"),
        ("hosts:\n  a: {\n", "3: (file): not YAML: while parsing a flow node, expected the node content, but found '<stream end>'"),
        (
            "hosts: {}\n---\nhosts: {}\n",
            "2: (file): not YAML: expected a single document in the stream, but found another document",
        ),
        ("hosts: *none", "1: (file): not YAML: found undefined alias 'none'"),
        (
            "hosts:\n  a: {role: !!python/name:os.system x}",
            "2: hosts.a.role: unsupported tag tag:yaml.org,2002:python/name:os.system",
        ),
        ("hosts:\n  a: {cpus: !!int x}", "2: hosts.a.cpus: no int"),
        ("hosts:\n  a: {role: x\n\x01}", "3: (file): a character that YAML does not allow"),
        (b"hosts:\n  a: {role: \xff}", "2: (file): not UTF-8"),
        ("hosts: " + "[" * 2000, "1: (file): nested too deeply"),
        ("hosts: &x {a: *x}", "1: (file): nested too deeply"),
        ("hosts: &x {<<: *x}", "1: (file): nested too deeply"),
        ("hosts: {}\n#" + "x" * located_yaml.MAX_BYTES, "1: (file): more than 1,048,576 bytes"),
        ("hosts: {a: {ringrift_path: ''}}", "1: hosts.a.ringrift_path: must have at least 1 character, not ''"),
        ("hosts: {a: }", "1: hosts.a: must be a mapping, not empty"),
        ("hosts: {a: {ssh_port: 0}}", "1: hosts.a.ssh_port: must be greater than or equal to 1, not 0"),
        ("hosts: {a: {data_server_port: 80.5}}", "1: hosts.a.data_server_port: must be a whole number, not 80.5"),
        ("hosts: {a: {cpus: " + "9" * 5000 + "}}", "1: hosts.a.cpus: no int"),
        ("hosts: {a: {memory_gb: .nan}}", "1: hosts.a.memory_gb: must be a finite number, not nan"),
        ("hosts: {a: {data_server_url: 'ftp://x'}}", "1: hosts.a.data_server_url: must be a URL such as http://host:8766, not 'ftp://x'"),
        (
            "hosts: {a: {data_server_url: 'http://u:p@x'}}",
            "1: hosts.a.data_server_url: must be a URL without user, query and fragment, not 'http://...@x'",
        ),
        ("hosts: {a: {tailscale_ipv6: 10.0.0.1}}", "1: hosts.a.tailscale_ipv6: must be an IPv6 address, not '10.0.0.1'"),
        (
            "sync_routing:\n  max_disk_usage_percent: 50\n  target_disk_usage_percent: 60\nhosts: {}",
            "3: sync_routing.target_disk_usage_percent: must be below max_disk_usage_percent (50), not 60",
        ),
        (
            "sync_routing:\n  s3: {bucket: a-bucket}\nhosts:\n  a-bucket: {}",
            "2: sync_routing.s3.bucket: the name a-bucket is taken at line 4",
        ),
    ],
)  # fmt: skip
def test_one_problem(problems: Problems, text: str | bytes, expected: str) -> None:
    assert problems(text) == [expected]


def test_a_file_that_is_not_there_or_no_file(tmp_path: Path) -> None:
    for path, what in ((tmp_path / "none.yaml", "cannot be read: No such file or directory"), (tmp_path, "not a file")):
        with pytest.raises(HostsFileError) as caught:
            load_hosts(path)
        assert caught.value.problems == [f"{path}:1: (file): {what}"]


def test_an_alias_bomb_is_refused_at_once(problems: Problems) -> None:
    levels = [f"l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * 10)}]" for level in range(1, 10)]
    (line,) = problems("l0: &l0 [x, x]\n" + "\n".join(levels) + "\nhosts: {}\n")
    assert line.endswith("(file): more than 100,000 values; aliases count each time")


def test_merged_entries_have_the_line_where_they_stand(load: Load, problems: Problems) -> None:
    text = "base: &base\n  ssh_user: root\n  ssh_port: {port}\nhosts:\n  a: {{<<: *base}}\n  b: {{<<: *base, ssh_user: me}}\n"
    cluster = load(text.format(port=2022))
    assert [(host.ssh.user, host.ssh.port) for host in cluster.hosts.values()] == [("root", 2022), ("me", 2022)]
    assert [line.split(":")[:2] for line in problems(text.format(port=-1))] == [
        ["3", " hosts.a.ssh_port"],
        ["3", " hosts.b.ssh_port"],
    ]


PIECES = ["hosts:", "\n", "  ", "a", ": ", "{", "}", "[", "]", "&x ", "*x", "<<: ", "!!int ", "- ", "'", "\t", "0x", "?"]
MISTAKES = st.text(max_size=200) | st.binary(max_size=200) | st.lists(st.sampled_from(PIECES)).map("".join)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=8,
)
SECTIONS = [*Cluster.model_fields, "sync_routing", "shared_storage"]
HOST_FIELDS = ["ssh_host", "ssh_port", "ringrift_path", "storage_paths", "region", "vast_instance_id", "provider", "gpu", "status"]


@settings(max_examples=300, deadline=None)
@given(MISTAKES)
@example("hosts: {a: {role: 2025-99-99}}")
@example("? [a]\n: b")
@example("!!int")
@example("hosts: {a: {role: !!bool x, gpu: !!timestamp x, cpus: !!float x, status: !!binary x, ? !!null x : 1}}")
def test_nothing_but_a_hosts_file_error_comes_of_any_text(tmp_path_factory: pytest.TempPathFactory, text: str | bytes) -> None:
    _loads_or_says_why(
        tmp_path_factory.getbasetemp() / "any.yaml", text.encode(errors="surrogatepass") if isinstance(text, str) else text
    )


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.sampled_from(SECTIONS), PLAIN),
    st.dictionaries(st.text(max_size=4), st.dictionaries(st.sampled_from(HOST_FIELDS), PLAIN)),
)
def test_nothing_but_a_hosts_file_error_comes_of_any_values(
    tmp_path_factory: pytest.TempPathFactory, rest: dict, some: dict
) -> None:
    _loads_or_says_why(tmp_path_factory.getbasetemp() / "values.yaml", yaml.safe_dump({**rest, "hosts": some}).encode())


def _loads_or_says_why(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        cluster = load_hosts(path)
    except HostsFileError as error:
        assert error.problems
        for line in error.problems:
            assert re.match(re.escape(str(path)) + r":[1-9]\d*: .+: .+\Z", line), line
    else:
        assert all(re.match(MANIFEST_NAME, place.name) for place in cluster.locations())


def test_a_name_here_is_a_name_in_the_manifest() -> None:
    assert get_args(fields.Name)[1].pattern.pattern == MANIFEST_NAME.pattern


def test_room_is_the_stricter_of_both_limits() -> None:
    assert Thresholds().full_at_percent == 85
    strict = Thresholds(max_disk_usage_percent=90.0, min_free_disk_percent=20.0)
    assert strict.full_at_percent == 80
    assert strict.has_room(total=100, free=30, size=10)
    assert not strict.has_room(total=100, free=30, size=11)
    assert not strict.has_room(total=0, free=0)


def test_the_command_prints_tables() -> None:
    done = CliRunner().invoke(hosts, ["--file", str(EXAMPLE)], standalone_mode=False)
    assert (done.return_value, done.stderr) == (0, "")
    for text in ("lambda-nfs", "test-bucket", "http://192.0.2.21:8766", "not active", "full at 85 %", "replication_target"):
        assert text in done.stdout


def test_the_command_prints_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGRIFT_HOSTS_FILE", str(TEMPLATE))
    done = CliRunner().invoke(hosts, ["--json"], standalone_mode=False)
    printed = json.loads(done.stdout)
    assert (done.return_value, printed["path"], printed["coordinator"]) == (0, str(TEMPLATE), "mac-lead")
    assert printed["hosts"][1]["agent_url"] == "http://192.0.2.10:8766"
    assert printed["thresholds"]["replication_target"] == 4
    assert len(printed["warnings"]) == 2


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_the_command_says_what_is_wrong_a_line_each(tmp_path: Path, options: list[str]) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("hosts:\n  a: {ssh_port: 0}\n  b: 7\n")
    done = CliRunner().invoke(hosts, ["--file", str(path), *options], standalone_mode=False)
    assert done.return_value == 2
    assert [line.removeprefix(f"ringrift-data: {path}:").split(": ")[0] for line in done.stderr.splitlines()] == ["2", "3"]
    assert bool(done.stdout) == bool(options)
    assert not options or len(json.loads(done.stdout)["problems"]) == 2


def test_the_default_file_is_in_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RINGRIFT_HOSTS_FILE", raising=False)
    monkeypatch.setenv("RINGRIFT_DATA_HOME", str(tmp_path))
    assert default_hosts_file() == tmp_path / "distributed_hosts.yaml"


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ("{elo0: 10, elo1: 5}", "must be above elo0 (10)"),
        ("{elo0: 50}", "must be above elo0 (50)"),
        ("{min_blocks: 6000}", "must be at least min_blocks (6000)"),
        ("{min_blocks: 5}", "greater than or equal to 10"),
        ("{min_blocks: 100, max_blocks: 50}", "must be at least min_blocks (100)"),
        ("{random_floor: {2p: 0.7}}", "must have a floor for 2p, 3p and 4p"),
        ("{alfa: 0.01}", "alfa"),
        ("{player: minimax}", "must be policy_only, or mcts:N"),
        ('{player: "mcts:32\\n"}', "must be policy_only, or mcts:N"),
    ],
)
def test_a_promotion_rule_that_makes_no_sense_is_an_error(section: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "hosts.yaml"
    path.write_text(f"promotion: {section}\nhosts: {{}}\n")
    with pytest.raises(HostsFileError, match=re.escape(problem)):
        load_hosts(path)


def test_promotion_rules_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "hosts.yaml"
    path.write_text('promotion: {elo1: 50, player: "mcts:64", random_floor: {2p: 0.8, 3p: 0.7, 4p: 0.6}}\nhosts: {}\n')
    limits = load_hosts(path).promotion
    assert limits.player == "mcts:64"
    assert (limits.elo0, limits.elo1, limits.min_blocks, limits.random_floor) == (0.0, 50.0, 40, {"2p": 0.8, "3p": 0.7, "4p": 0.6})

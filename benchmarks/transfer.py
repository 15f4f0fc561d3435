"""Moving data: every figure beside its reference, measured in the same run on the same loopback.

Agents are real processes. `verified` means what a pull means: every chunk hashed with BLAKE3 as it comes, SHA-256 of the whole, the
content looked into, the file made durable, and only then named. References do none of that unless it is said.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from ringrift_dagster.home import Home
from ringrift_dagster.manifest.inventory import FoundItem
from ringrift_dagster.manifest.plane import open_plane
from ringrift_dagster.manifest.queries import readable_at
from ringrift_dagster.manifest.store import Store
from ringrift_dagster.transfer.agents import AgentClient
from ringrift_dagster.transfer.coordinator import Coordinator
from ringrift_dagster.transfer.fetch import FetchFailed, fetch
from ringrift_dagster.transfer.model import Offer, Order, OrderedItem, Priority, Progress, PullState, TransportName
from ringrift_dagster.transfer.operations import Brought, Kind, State, Wanted
from ringrift_dagster.transfer.part import PartFile
from ringrift_dagster.transfer.queue import complete, get, lease, listed, submit_all
from ringrift_dagster.transfer.transports.http import HttpTransport
from tests.agents import RunningAgent, running_agent
from tests.ssh_servers import ssh_server

MB = 1 << 20
LARGE = 1024 * MB
REPEATS = 3
FILES, FILE_BYTES = 500, 200_000
FAN_OUT, UPLINK = 256 * MB, 30.0
QUEUED = 100_000
FAULT_RUNS = 300
KILLS = 200
KILLED_LEASE_SECONDS = 2.0
FINAL = (PullState.DONE, PullState.FAILED, PullState.CANCELLED)
Rows = list[tuple[str, str, str]]
_BROUGHT = Brought("http", "a", MB, 0.1)


class Free:
    """Nobody else is there, and the link has no limit."""

    def cancelled(self) -> bool:
        return False

    def wait_turn(self) -> bool:
        return True

    def preempted(self) -> bool:
        return False

    def take(self, location: str, n: int) -> None:
        return

    def progress(self, bytes_done: int, transport: TransportName, location: str, retries: int) -> None:
        return


def database(path: Path, size: int, seed: int = 0) -> None:
    """A sound game database of one game, and about so many bytes that no other equals."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = random.Random(seed or path.name)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;"
            "CREATE TABLE games (game_id TEXT, board_type TEXT, num_players INTEGER, game_status TEXT);"
            "CREATE TABLE game_moves (game_id TEXT, move_number INTEGER); CREATE TABLE t (b BLOB);"
            "INSERT INTO games VALUES ('game', 'square8', 2, 'completed');"
            "INSERT INTO game_moves VALUES ('game', 0), ('game', 1), ('game', 2), ('game', 3), ('game', 4);"
        )
        piece = min(MB, size)
        with connection:
            connection.executemany("INSERT INTO t VALUES (?)", ((noise.randbytes(piece - 3000),) for _ in range(size // piece)))


@dataclass
class Held:
    """What an agent tells of an item of its own."""

    agent: RunningAgent
    found: FoundItem

    def ordered(self, *offers: Offer) -> OrderedItem:
        """It as part of an order, offered by its agent over http if nothing else is said."""
        here = Offer(transport=TransportName.HTTP, location=self.agent.name, address=self.url)
        told = {name: getattr(self.found, name) for name in ("sha256", "size", "type", "config", "chunks")}
        return OrderedItem.model_validate({**told, "name": f"{self.found.sha256}.db", "offers": offers or (here,)})

    @property
    def url(self) -> str:
        return f"{self.agent.url}/v1/objects/{self.found.sha256}"


def holding(agent: RunningAgent, count: int) -> list[Held]:
    """Everything an agent holds, once it has hashed so much."""
    while True:
        found = agent.source().read(None, 60).found
        if len(found) >= count:
            return [Held(agent, each) for each in found]


def pulled(client: AgentClient, name: str, items: Sequence[OrderedItem], priority: Priority = Priority.NORMAL) -> Progress:
    """An order, followed to its end."""
    progress = client.post(Order(id=name, priority=priority, items=tuple(items)))
    while progress.state not in FINAL:
        progress = client.get(name, wait=10, version=progress.version) or progress
    assert all(item.state == PullState.DONE for item in progress.items), [item for item in progress.items if item.cause][:1]
    return progress


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def raw_tcp(source: Path, target: Path) -> float:
    """Seconds of sendfile to a socket, received into a buffer and written: nothing is verified."""
    program = (
        "import socket, sys, os\n"
        "path, port = sys.argv[1], int(sys.argv[2])\n"
        "s = socket.create_connection(('127.0.0.1', port))\n"
        "f = open(path, 'rb'); s.sendfile(f); s.close()\n"
    )
    buffer = memoryview(bytearray(MB))
    with socket.create_server(("127.0.0.1", 0)) as listener, target.open("wb", buffering=0) as file:
        command = [sys.executable, "-c", program, str(source), str(listener.getsockname()[1])]
        with subprocess.Popen(command):
            connection, _ = listener.accept()
            began = time.perf_counter()
            with connection:
                while got := connection.recv_into(buffer):
                    file.write(buffer[:got])
            return time.perf_counter() - began


def large(root: Path) -> Rows:
    """1 GiB from one agent to another."""
    path = root / "a/data/sync_incoming/x.db"
    database(path, LARGE)
    _named_by_hash(path)
    seconds: dict[str, list[float]] = {"cp": [], "tcp": [], "engine": [], "pull": [], "rsync": []}
    with ExitStack() as stack:
        first = stack.enter_context(running_agent(root / "a", "a"))
        second = stack.enter_context(running_agent(root / "b", "b"))
        ssh = stack.enter_context(ssh_server(root / "ssh"))
        (held,) = holding(first, 1)
        source = root / "a" / held.found.path
        client = AgentClient(second.url, None, "b")
        item = held.ordered()
        target = root / "target"
        for number in range(REPEATS):
            seconds["cp"].append(timed(lambda: subprocess.run(["cp", source, target], check=True)))
            seconds["tcp"].append(raw_tcp(source, target))
            target.unlink()
            seconds["engine"].append(timed(lambda: _engine(root / "parts", item)))
            shutil.rmtree(root / "parts")
            seconds["pull"].append(timed(lambda number=number: pulled(client, f"large-{number}", [item])))
            for left in (root / "b/data/sync_incoming").iterdir():
                left.unlink()
            holding_nothing(second)
            shell = f"ssh -p {ssh.port} -i {ssh.key} -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
            command = ["rsync", "-W", "--inplace", "-e", shell, ssh.offer(source).address, str(target)]
            seconds["rsync"].append(timed(lambda command=command: subprocess.run(command, check=True)))
            target.unlink()
    speed = {name: LARGE / 1e6 / median(each) for name, each in seconds.items()}
    return [
        (
            "1 GiB, chunks and whole verified, MB/s",
            f"{speed['engine']:,.0f}",
            f"raw TCP {speed['tcp']:,.0f}, cp {speed['cp']:,.0f}",
        ),
        ("  of raw TCP / of cp", f"{speed['engine'] / speed['tcp']:.2f} / {speed['engine'] / speed['cp']:.2f}", "aim 0.80 / 0.45"),
        ("1 GiB, ordered from an agent to its end, MB/s", f"{speed['pull']:,.0f}", f"rsync over ssh {speed['rsync']:,.0f}"),
    ]


def _engine(folder: Path, item: OrderedItem) -> None:
    import base64

    folder.mkdir()
    part = PartFile.open(folder, item.name, item.sha256, item.size, base64.b64decode(item.chunks or ""))
    try:
        fetch(part, item, {TransportName.HTTP: HttpTransport(None)}, Free())
    finally:
        part.close()


def holding_nothing(agent: RunningAgent) -> None:
    while agent.source().read(None, 60).found:
        pass


def small(root: Path) -> Rows:
    """500 files of 200 KB."""
    for number in range(FILES):
        path = root / f"a/data/sync_incoming/{number}.db"
        database(path, FILE_BYTES, number + 1)
        _named_by_hash(path)
    seconds: dict[str, list[float]] = {"cp": [], "synced": [], "pull": []}
    with ExitStack() as stack:
        first = stack.enter_context(running_agent(root / "a", "a"))
        second = stack.enter_context(running_agent(root / "b", "b"))
        items = [held.ordered() for held in holding(first, FILES)]
        client = AgentClient(second.url, None, "b")
        copy = root / "copy"
        for number in range(REPEATS):
            seconds["cp"].append(timed(lambda: subprocess.run(["cp", "-r", root / "a/data/sync_incoming", copy], check=True)))
            shutil.rmtree(copy)
            seconds["synced"].append(timed(lambda: _copied_durably(root / "a/data/sync_incoming", copy)))
            shutil.rmtree(copy)
            seconds["pull"].append(timed(lambda number=number: pulled(client, f"small-{number}", items)))
            for left in (root / "b/data/sync_incoming").iterdir():
                left.unlink()
            holding_nothing(second)
    rate = {name: FILES / median(each) for name, each in seconds.items()}
    return [
        (
            f"{FILES} × 200 KB, verified and durable, files/s",
            f"{rate['pull']:,.0f}",
            f"cp -r {rate['cp']:,.0f}, with an fsync a file {rate['synced']:,.0f}",
        ),
        ("  of cp -r / of cp -r with fsync", f"{rate['pull'] / rate['cp']:.2f} / {rate['pull'] / rate['synced']:.2f}", "aim 0.85"),
    ]


def _copied_durably(source: Path, target: Path) -> None:
    target.mkdir()
    for path in source.iterdir():
        if path.is_file():
            with (target / path.name).open("wb") as file:
                file.write(path.read_bytes())
                os.fsync(file.fileno())


def fan_out(root: Path) -> Rows:
    """One item to three receivers, every uplink capped: from one source, and among each other."""
    path = root / "a/data/sync_incoming/x.db"
    database(path, FAN_OUT)
    _named_by_hash(path)
    cap, bound = ("--uplink", str(UPLINK)), path_size(root) / (UPLINK * 1e6)
    taken = {}
    for name, options in (("http", cap), ("bittorrent", (*cap, "--bittorrent", "0"))):
        with ExitStack() as stack:
            first = stack.enter_context(running_agent(root / "a", "a", *options))
            hosts = [f"{name}-{number}" for number in range(3)]
            agents = {host: stack.enter_context(running_agent(root / host, host, *options)) for host in hosts}
            home = Home(root / f"home-{name}")
            home.root.mkdir()
            (home.root / "distributed_hosts.yaml").write_text(_hosts({"a": first.url, **{h: a.url for h, a in agents.items()}}))
            with open_plane(home) as plane:
                holding(first, 1)
                plane.refresh()
                (held,) = holding(first, 1)
                wanted = [Wanted(Kind.PRELOAD, held.found.sha256, host, Priority.HIGH, held.found.size) for host in hosts]
                submit_all(plane.store, wanted, at=time.time())
                taken[name] = timed(lambda hosts=hosts, plane=plane: _in_threads(
                    [lambda host=host: Coordinator(plane, f"bench {host}").run(host, seconds=300, idle=0.0) for host in hosts]
                ))  # fmt: skip
                assert all(get(plane.store, number).state == State.DONE for number in range(1, len(hosts) + 1))
    return [
        (
            f"{FAN_OUT // MB} MiB to 3 hosts, uplinks {UPLINK:.0f} MB/s, s",
            f"{taken['bittorrent']:.1f}",
            f"one copy over the uplink takes {bound:.1f}; three from one source took {taken['http']:.1f}",
        ),
        ("  of size / uplink", f"{taken['bittorrent'] / bound:.2f}", "aim 1.30"),
    ]


def queue(root: Path) -> Rows:
    """Putting into the queue, leasing, and how long CRITICAL waits behind 100,000 LOW ones."""
    (root / "b").mkdir()
    path = root / "a/data/sync_incoming/x.db"
    database(path, 4 * MB)
    _named_by_hash(path)
    home = Home(root / "home")
    home.root.mkdir()
    with ExitStack() as stack:
        first = stack.enter_context(running_agent(root / "a", "a"))
        second = stack.enter_context(running_agent(root / "b", "b"))
        (home.root / "distributed_hosts.yaml").write_text(_hosts({"a": first.url, "b": second.url}))
        plane = stack.enter_context(open_plane(home))
        (held,) = holding(first, 1)
        plane.refresh()
        store = plane.store
        low = [Wanted(Kind.REPLICATE, f"{number:064x}", "b", Priority.LOW, MB) for number in range(QUEUED)]
        enqueued = QUEUED / timed(lambda: submit_all(store, low, at=time.time()))
        one = _single_submits(store)
        leased = _leases(store)
        stop = threading.Event()
        runner = threading.Thread(
            target=lambda: Coordinator(plane, "bench").run("b", seconds=300, idle=None, stop=stop.is_set), daemon=True
        )
        runner.start()
        waits = [_critical(store, held, second, number) for number in range(5)]
        stop.set()
        runner.join(30)
    return [
        ("operations submitted at once, a second", f"{enqueued:,.0f}", f"one by one, durably {one:,.0f}"),
        ("leases and ends, a second", f"{leased:,.0f}", "one lessee, a lease at a time"),
        (
            f"CRITICAL done behind {QUEUED:,} LOW, median/max s",
            f"{median(waits):.2f} / {max(waits):.2f}",
            "4 MiB, submitted to verified; aim 1 s to its start",
        ),
    ]


def _single_submits(store: Store, count: int = 300) -> float:
    began = time.perf_counter()
    for number in range(count):
        submit_all(store, [Wanted(Kind.SYNC, f"{number:064x}", "nowhere", Priority.NORMAL, MB)], at=time.time())
    return count / (time.perf_counter() - began)


def _leases(store: Store, count: int = 300) -> float:
    began = time.perf_counter()
    for _ in range(count):
        (held,) = lease(store, "bench", "nowhere", at=time.time())
        with store.writing() as writer:
            complete(writer, held, _BROUGHT, at=time.time())
    return count / (time.perf_counter() - began)


def _critical(store: Store, held: Held, target: RunningAgent, number: int) -> float:
    """Seconds until an item that the target does not hold is there."""
    began = time.perf_counter()
    (operation,) = submit_all(
        store, [Wanted(Kind.PRELOAD, held.found.sha256, target.name, Priority.CRITICAL, held.found.size)], at=time.time()
    )
    while get(store, operation).finished_at is None:
        threading.Event().wait(0.01)
    seconds = time.perf_counter() - began
    assert get(store, operation).state == State.DONE, get(store, operation)
    for left in (target.root / "data/sync_incoming").iterdir():
        left.unlink()
    holding_nothing(target)
    return seconds


def live(root: Path) -> Rows:
    """A database that is being written to: snapshot, hash, transfer, verified at the other end."""
    path = root / "a/data/games/selfplay_square8_2p.db"
    database(path, 300 * MB)
    with ExitStack() as stack:
        stack.enter_context(_writer(path))
        first = stack.enter_context(running_agent(root / "a", "a", snapshot_interval=3600.0))
        second = stack.enter_context(running_agent(root / "b", "b"))
        began = time.perf_counter()
        (held,) = holding(first, 1)
        snapshot = time.perf_counter() - began
        pulled(AgentClient(second.url, None, "b"), "live", [held.ordered()])
        whole = time.perf_counter() - began
    return [("live database of 300 MB: snapshot and hash, all, s", f"{snapshot:.1f} / {whole:.1f}", "the writer goes on")]


@contextmanager
def _writer(path: Path) -> Iterator[None]:
    program = (
        "import sqlite3, sys, time\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30); c.execute('PRAGMA journal_mode=WAL')\n"
        "while True:\n"
        "    c.execute('INSERT INTO t VALUES (?)', (b'x' * 500,)); time.sleep(0.005)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(path)])
    try:
        yield
    finally:
        process.kill()
        process.wait()


@dataclass
class Faulty:
    """What came of transfers from sources that misbehave."""

    right: int = 0
    failed: int = 0
    wrong: int = 0
    wasted: int = 0
    causes: dict[str, int] = field(default_factory=dict)


def faults(root: Path) -> Rows:
    """Transfers from three sources, one, two or all of which flip, cut, stall, reset or answer 500."""
    import base64
    import hashlib

    from blake3 import blake3

    from tests.transfer.faulty_servers import Faults, faulty

    chance = random.Random(7)
    content = chance.randbytes(24 * MB)
    sha256 = hashlib.sha256(content).hexdigest()
    table = b"".join(blake3(content[at : at + 4 * MB]).digest() for at in range(0, len(content), 4 * MB))
    kinds: list[Callable[[], Faults]] = [
        lambda: Faults(flip_every=8 * MB),
        lambda: Faults(cut_after=chance.randrange(1, 4 * MB)),
        lambda: Faults(reset_after=chance.randrange(1, 8 * MB)),
        lambda: Faults(status=500),
        lambda: Faults(dead_after_total=chance.randrange(1, 12 * MB)),
        lambda: Faults(extra_size=chance.randrange(1, MB)),
    ]
    result = Faulty()
    with faulty({sha256: content}, 3) as servers:
        for number in range(FAULT_RUNS):
            for index, server in enumerate(servers):
                server.faults = chance.choice(kinds)() if index < number % 4 else Faults()
            offers = tuple(
                Offer(transport=TransportName.HTTP, location=f"s{index}", address=server.url(sha256))
                for index, server in enumerate(servers)
            )
            told = {"sha256": sha256, "size": len(content), "type": "NPZ", "name": "x.npz", "offers": offers}
            item = OrderedItem.model_validate(told | {"chunks": base64.b64encode(table).decode()})
            folder = root / f"run-{number}"
            folder.mkdir()
            part = PartFile.open(folder, item.name, sha256, item.size, table)
            try:
                done = fetch(part, item, {TransportName.HTTP: HttpTransport(None)}, Free())
                result.wasted += done.resent
                right = hashlib.sha256(part.path.read_bytes()).hexdigest() == sha256
                result.right += right
                result.wrong += not right
            except FetchFailed as failure:
                result.failed += 1
                result.causes[failure.cause] = result.causes.get(failure.cause, 0) + 1
            finally:
                part.close()
            shutil.rmtree(folder)
    causes = ", ".join(f"{count} {cause}" for cause, count in sorted(result.causes.items()))
    return [
        (
            f"{FAULT_RUNS} transfers, up to 3 of 3 sources faulty",
            f"{result.right} right, {result.wrong} wrong",
            f"{result.failed} failed with a cause ({causes}); {result.wasted / MB / max(1, result.right):.1f} MiB sent twice each",
        )
    ]


def kills(root: Path) -> Rows:
    """The coordinator killed with -9 again and again, at random moments, while items are carried."""
    count = KILLS * 4
    for number in range(count):
        path = root / f"a/data/sync_incoming/{number}.db"
        database(path, 64 << 10, number + 1)
        _named_by_hash(path)
    home = Home(root / "home")
    home.root.mkdir()
    (root / "b").mkdir()
    chance, killed = random.Random(11), 0
    with ExitStack() as stack:
        first = stack.enter_context(running_agent(root / "a", "a"))
        second = stack.enter_context(running_agent(root / "b", "b"))
        (home.root / "distributed_hosts.yaml").write_text(_hosts({"a": first.url, "b": second.url}))
        items = holding(first, count)
        with open_plane(home) as plane:
            plane.refresh()
        waiting = list(items)
        while killed < KILLS:
            with open_plane(home) as plane:
                batch, waiting = waiting[:4], waiting[4:]
                wanted = [Wanted(Kind.SYNC, held.found.sha256, "b", Priority.NORMAL, held.found.size) for held in batch]
                submit_all(plane.store, wanted, at=time.time())
            child = os.fork()
            if not child:
                _coordinate_until_killed(home)
            time.sleep(chance.uniform(0.02, 0.4))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            killed += 1
        with open_plane(home) as plane:
            time.sleep(KILLED_LEASE_SECONDS)
            Coordinator(plane, "the last").run("b", seconds=300)
            ended = listed(plane.store, states=list(State), limit=count * 2)
            at_target = {name for name, item in readable_at(plane.store, "b")}
            asked = second.source().read(None, 60).found
    done = sum(each.state == State.DONE for each in ended)
    held = {each.sha256 for each in asked}
    lost = sum(each.found.sha256 not in held for each in items)
    twice = len(ended) - len({each.sha256 for each in ended})
    return [
        (
            f"coordinator killed {killed} times",
            f"{done} of {count} done",
            f"{lost} not at the target, {twice} twice, {len(at_target) - len(held)} recorded and not there",
        )
    ]


def _coordinate_until_killed(home: Home) -> None:
    """In a process of its own, forked before anything was opened; never returns."""
    try:
        with open_plane(home) as plane:
            Coordinator(plane, f"coordinator {os.getpid()}", lease_seconds=KILLED_LEASE_SECONDS).run("b", seconds=60, idle=None)
    finally:
        os._exit(1)


def run(only: Sequence[str] = ()) -> Iterator[tuple[str, str, str]]:
    """Rows of (figure, here, beside), as they are measured."""
    for part in (large, small, fan_out, queue, live, faults, kills):
        if not only or part.__name__ in only:
            with tempfile.TemporaryDirectory() as directory:
                yield from part(Path(directory))


def path_size(root: Path) -> int:
    return sum(path.stat().st_size for path in (root / "a/data/sync_incoming").glob("*.db"))


def _named_by_hash(path: Path) -> None:
    from ringrift_dagster.games.database import file_sha256

    path.rename(path.with_name(f"{file_sha256(path)}.db"))


def _hosts(urls: dict[str, str]) -> str:
    lines = ["auto_sync: {host_bandwidth_overrides: {'*': 100000}}", "hosts:"]
    for name, url in urls.items():
        told = f'status: ready, ssh_host: 127.0.0.1, ringrift_path: /nowhere, data_server_url: "{url}"'
        lines.append(f"  {name}: {{{told}}}")
    return "\n".join(lines) + "\n"


def _in_threads(works: Sequence[Callable[[], object]]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

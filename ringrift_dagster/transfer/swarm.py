"""This host's part in private swarms: BitTorrent between hosts that are told of each other, and nobody else.

No tracker, no DHT, no local discovery, no port mapping: whoever is not named as a peer is not let in. A torrent's file is reached
by a descriptor of ours, so that it may be published under another name while it is shared. libtorrent is an extra.
"""

from __future__ import annotations

import ipaddress
import os
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ringrift_dagster.transfer.pieces import Pieces
from ringrift_dagster.transfer.transports.protocol import TransportFailure

MOST_BYTES_A_SECOND = 1 << 30
"""No limit beyond that: libtorrent counts in 32 bits, and near their end it sends nothing."""
MAX_MEMBERS = 64
"""Torrents at once."""
MAX_PEERS = 128
"""Of a torrent."""
LISTEN_SECONDS = 5.0
LEAVE_SECONDS = 10.0
ROUND_SECONDS = 0.25
"""Between two looks at who is connected and whose time is up."""

REQUESTS_A_PEER = 32
"""Of 16 KiB each, that a peer may have open at another one."""
TICK_MILLISECONDS = 100
"""In which an uplink's share is given out: short queues run dry in libtorrent's own 500."""
LOOK_SECONDS = 0.01
ALERTS = 8
"""libtorrent's category of what happens on the disk."""

Peer = tuple[str, int]


class Full(Exception):
    """There are as many torrents as there may be."""


@dataclass(frozen=True)
class Seeding:
    """A torrent that is shared. `until` in seconds since 1970; None while it is being fetched. `uploaded` in bytes."""

    sha256: str
    until: float | None
    uploaded: int
    peers: int


@dataclass(frozen=True)
class Standing:
    """How far a torrent is. `error`: of our own disk."""

    done: int
    checking: bool
    complete: bool
    error: OSError | None


@dataclass(eq=False)
class _Member:
    handle: Any
    descriptor: int
    peers: frozenset[Peer]
    until: float | None
    flushed: threading.Event = field(default_factory=threading.Event)


class Swarm:
    """One libtorrent session. `port` 0 takes a free one, and so does a port that is taken. Safe to use from several threads.

    `upload` and `download` bytes a second are the limits of everything together. Use as a context manager, or `close` it. Raises
    TransportFailure: not_installed, failed where nothing can listen.
    """

    def __init__(
        self, host: str = "127.0.0.1", port: int = 0, *, upload: float | None = None, download: float | None = None
    ) -> None:
        self._lt = _libtorrent()
        self._lock = threading.RLock()
        self._members: dict[str, _Member] = {}
        self._flushing: list[_Member] = []
        self._closed = threading.Event()
        self._session = self._lt.session(_settings(host, port, upload, download))
        self._session.set_peer_class_filter(self._everyone(1 << int(self._lt.session.global_peer_class_id)))
        self._admit()
        self.port = self._listened(f"{host}:{port}")
        self._thread = threading.Thread(target=self._run, name="swarm", daemon=True)
        self._thread.start()

    def fetch(self, pieces: Pieces, descriptor: int, peers: Iterable[Peer], download: float | None, *, empty: bool) -> None:
        """Begin to fill an open file, and to share what is in it. `empty`: there is nothing to be looked at in it.

        The descriptor stays the caller's. Raises Full.
        """
        flags = self._lt.torrent_flags.no_verify_files if empty else 0
        self._join(pieces, os.dup(descriptor), peers, None, flags, download)

    def seed(self, pieces: Pieces, descriptor: int, peers: Iterable[Peer], seconds: float) -> float:
        """Share a whole file, that was just verified; returns until when. Again prolongs it and adds peers.

        The descriptor stays the caller's. Raises Full.
        """
        until = time.time() + seconds
        with self._lock:
            if (member := self._members.get(pieces.sha256)) is not None:
                member.peers |= frozenset(peers)
                if member.until is not None:
                    member.until = max(until, member.until)
                self._admit()
                self._connect(member)
            else:
                self._join(pieces, os.dup(descriptor), peers, until, self._lt.torrent_flags.seed_mode, None)
        return until

    def keep(self, sha256: str, seconds: float) -> None:
        """What was fetched is shared for so long."""
        with self._lock:
            if (member := self._members.get(sha256)) is not None:
                member.until = time.time() + seconds

    def standing(self, sha256: str) -> Standing:
        """How far a torrent is. Raises TransportFailure when it was left meanwhile."""
        with self._lock:
            member = self._members.get(sha256)
            if member is None:
                raise TransportFailure("cancelled", "the swarm was left")
            status = member.handle.status()
        states = self._lt.torrent_status
        checking = status.state in (states.checking_files, states.checking_resume_data, states.queued_for_checking)
        error = OSError(status.errc.value(), status.errc.message()) if status.errc.value() else None
        return Standing(status.total_wanted_done, checking, status.is_seeding, error)

    def seeding(self) -> list[Seeding]:
        """All torrents that are shared."""
        with self._lock:
            statuses = [(sha256, member, member.handle.status()) for sha256, member in self._members.items()]
        return [Seeding(sha256, member.until, each.total_payload_upload, each.num_peers) for sha256, member, each in statuses]

    def flush(self, sha256: str) -> None:
        """Everything that came is in the file when this returns: what a torrent has, it may only be about to write."""
        with self._lock:
            member = self._members.get(sha256)
        if member is not None:
            self._flush(member)

    def leave(self, sha256: str) -> None:
        """Share no more. Nothing writes into the file when this returns."""
        with self._lock:
            member = self._members.pop(sha256, None)
        if member is None:
            return
        with suppress(RuntimeError):
            member.handle.pause()
        self._flush(member)
        self._session.remove_torrent(member.handle)
        deadline = time.monotonic() + LEAVE_SECONDS
        while member.handle.is_valid() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.close(member.descriptor)

    def close(self) -> None:
        """Leave everything."""
        self._closed.set()
        self._thread.join()
        for sha256 in list(self._members):
            self.leave(sha256)

    def __enter__(self) -> Swarm:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _join(
        self,
        pieces: Pieces,
        descriptor: int,
        peers: Iterable[Peer],
        until: float | None,
        flags: int,
        download: float | None,
    ) -> None:
        kinds = self._lt.torrent_flags
        wanted = self._lt.add_torrent_params()
        wanted.ti = self._lt.torrent_info(self._lt.bdecode(pieces.torrent()))
        wanted.save_path, wanted.renamed_files = "/proc/self/fd", {0: str(descriptor)}
        wanted.flags = kinds.disable_dht | kinds.disable_lsd | kinds.disable_pex | kinds.apply_ip_filter | flags
        if download is not None:
            wanted.download_limit = _limit(download)
        self.leave(pieces.sha256)
        with self._lock:
            if len(self._members) >= MAX_MEMBERS and not self._drop_oldest_seed():
                os.close(descriptor)
                raise Full
            member = _Member(self._session.add_torrent(wanted), descriptor, frozenset(peers), until)
            self._members[pieces.sha256] = member
            self._admit()
            self._connect(member)

    def _flush(self, member: _Member) -> None:
        with self._lock:
            self._flushing.append(member)
        try:
            member.flushed.clear()
            member.handle.flush_cache()
            deadline = time.monotonic() + LEAVE_SECONDS
            while not member.flushed.wait(LOOK_SECONDS) and time.monotonic() < deadline:
                self._hear()
        except RuntimeError:
            return  # it left the session by itself
        finally:
            with self._lock:
                self._flushing.remove(member)

    def _hear(self) -> None:
        """Take note of what libtorrent says: of interest is only what was written."""
        with self._lock:
            for alert in self._session.pop_alerts():
                if isinstance(alert, self._lt.cache_flushed_alert):
                    for member in self._flushing:
                        if member.handle == alert.handle:
                            member.flushed.set()

    def _drop_oldest_seed(self) -> bool:
        seeds = [(member.until, sha256) for sha256, member in self._members.items() if member.until is not None]
        if seeds:
            self.leave(min(seeds)[1])
        return bool(seeds)

    def _admit(self) -> None:
        """Let in those that are named, and nobody else."""
        hosts = self._everyone(1)
        for host in {host for member in self._members.values() for host, _ in member.peers}:
            hosts.add_rule(host, host, 0)
        self._session.set_ip_filter(hosts)

    def _everyone(self, what: int) -> Any:
        """A filter that says the same of every address."""
        everyone = self._lt.ip_filter()
        everyone.add_rule("0.0.0.0", "255.255.255.255", what)
        everyone.add_rule("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", what)
        return everyone

    def _connect(self, member: _Member) -> None:
        """Call on those who are not there: who comes later is not told of us by anybody else."""
        there = {peer.ip for peer in member.handle.get_peer_info()}
        for peer in member.peers - there:
            member.handle.connect_peer(peer)

    def _run(self) -> None:
        while not self._closed.wait(ROUND_SECONDS):
            with self._lock:
                over = [sha256 for sha256, member in self._members.items() if _is_over(member)]
                for sha256, member in self._members.items():
                    if sha256 not in over:
                        self._connect(member)
            for sha256 in over:
                self.leave(sha256)
            self._hear()

    def _listened(self, where: str) -> int:
        deadline = time.monotonic() + LISTEN_SECONDS
        while time.monotonic() < deadline:
            if port := self._session.listen_port():
                return port
            time.sleep(0.01)
        raise TransportFailure("failed", f"nothing can listen on {where}")


def _is_over(member: _Member) -> bool:
    """Whether a seed's time is up, or nobody but us has its file any more."""
    return member.until is not None and (member.until < time.time() or os.fstat(member.descriptor).st_nlink == 0)


def parse_peers(text: str) -> list[Peer]:
    """`ip:port ip:port …` (IPv6 in brackets) as pairs. Raises ValueError for anything else, and for too many."""
    peers = []
    for each in text.split():
        host, _, port = each.rpartition(":")
        if not port.isascii() or not port.isdecimal() or not 1 <= int(port) <= 65535:
            raise ValueError(f"not ip:port: {each[:60]}")
        peers.append((str(ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))), int(port)))
    if len(peers) > MAX_PEERS:
        raise ValueError(f"more than {MAX_PEERS} peers")
    return peers


def _libtorrent() -> Any:
    try:
        import libtorrent
    except ImportError:
        raise TransportFailure("not_installed", "libtorrent is not installed") from None
    return libtorrent


def _limit(bytes_a_second: float | None) -> int:
    """As libtorrent takes it: 0 for none."""
    return max(1, int(bytes_a_second)) if bytes_a_second and bytes_a_second <= MOST_BYTES_A_SECOND else 0


def _settings(host: str, port: int, upload: float | None, download: float | None) -> dict[str, Any]:
    return {
        "listen_interfaces": f"{f'[{host}]' if ':' in host else host}:{port}",
        "listen_system_port_fallback": True,
        "max_retry_port_bind": 0,
        "enable_dht": False,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "enable_incoming_utp": False,
        "enable_outgoing_utp": False,
        "allow_multiple_connections_per_ip": True,
        # Peers are our own hosts: everybody gives to everybody, and nobody has to earn it.
        "unchoke_slots_limit": -1,
        "connections_limit": 500,
        # What a peer asked the source for, nobody else gives it any more: with long queues much of it is sent twice.
        "max_allowed_in_request_queue": REQUESTS_A_PEER,
        "tick_interval": TICK_MILLISECONDS,
        "rate_limit_ip_overhead": False,
        "upload_rate_limit": _limit(upload),
        "download_rate_limit": _limit(download),
        "out_enc_policy": 2,
        "in_enc_policy": 2,
        "min_reconnect_time": 1,
        "peer_connect_timeout": 3,
        "alert_mask": ALERTS,
        "user_agent": "ringrift-dagster",
    }

"""The transports that an agent pulls by."""

from __future__ import annotations

from collections.abc import Mapping

from ringrift_dagster.transfer.model import TransportName
from ringrift_dagster.transfer.transports.http import HttpTransport
from ringrift_dagster.transfer.transports.protocol import RangeTransport, WholeTransport
from ringrift_dagster.transfer.transports.s3 import S3Transport

Transports = Mapping[TransportName, RangeTransport | WholeTransport]


def make_transports(token: str | None) -> Transports:
    """All that this host can do. `token`: what other agents want to see."""
    return {TransportName.HTTP: HttpTransport(token), TransportName.S3: S3Transport()}

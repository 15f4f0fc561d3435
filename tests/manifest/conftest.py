"""S3 servers for the tests of the manifest: each started once, with an empty bucket for every test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.s3_servers import Proxy, S3Server, moto_server, new_bucket, proxy_before, rclone_server


@pytest.fixture(scope="session")
def rclone_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that checks signatures and keeps files."""
    with rclone_server(tmp_path_factory.mktemp("rclone") / "server") as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
    """A server that knows storage classes."""
    with moto_server() as endpoint:
        yield endpoint


@pytest.fixture
def s3_rclone(rclone_endpoint: str) -> S3Server:
    """An empty bucket of rclone's server."""
    return new_bucket(rclone_endpoint)


@pytest.fixture
def s3_moto(moto_endpoint: str) -> S3Server:
    """An empty bucket of moto's server."""
    return new_bucket(moto_endpoint)


@pytest.fixture
def proxied() -> Iterator[Callable[[S3Server], Proxy]]:
    """Put a proxy before a server."""
    with ExitStack() as stack:
        yield lambda server: stack.enter_context(proxy_before(server.endpoint))

"""Running the agent as a server: the socket, its limits, and the end. What it answers is in `app`."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys

import uvicorn

from ringrift_dagster.node.agent import AgentConfig
from ringrift_dagster.node.app import create_app
from ringrift_dagster.node.http import MAX_HEAD_BYTES

TOKEN_VARIABLE = "RINGRIFT_NODE_TOKEN"
MAX_CONNECTIONS = 256
STOP_SECONDS = 5


class Unprotected(Exception):
    """The agent would be open to others without a token."""


def token_from_env() -> str | None:
    """The token that whoever asks needs."""
    return os.environ.get(TOKEN_VARIABLE) or None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def serve(config: AgentConfig, host: str, port: int) -> None:
    """Serve until stopped by SIGINT or SIGTERM; prints the address once it listens. Port 0 takes a free one.

    Raises Unprotected, and OSError where nothing can listen.
    """
    if config.token is None and not is_loopback(host):
        raise Unprotected(f"{host} can be reached from elsewhere: set {TOKEN_VARIABLE}, or listen on 127.0.0.1")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
        chosen = listener.getsockname()[1]
        server = uvicorn.Server(
            uvicorn.Config(
                create_app(config),
                http="h11",  # the only one of uvicorn's that stops reading a head without an end
                h11_max_incomplete_event_size=MAX_HEAD_BYTES,
                ws="none",
                limit_concurrency=MAX_CONNECTIONS,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=STOP_SECONDS,
                log_level="warning",
                access_log=False,
                server_header=False,
            )
        )
        print(f"listening http://{f'[{host}]' if family == socket.AF_INET6 else host}:{chosen}", flush=True)
        server.run(sockets=[listener])
    sys.stdout.flush()

"""Addresses as they stand in a hosts file: what is one, what only holds its place, and their plain form.

Nothing is resolved or contacted here.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator

_PLACEHOLDER = re.compile(r"<[^<>]*>|(?<![\w.])[0-9]+(?:\.(?:[0-9]+|[xX]+)){0,2}\.[xX]+(?![\w.])")
_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}))*\.?\Z")
_USER = re.compile(r"[^-\s@][^\s@]{0,63}\Z")


def is_placeholder(value: object) -> bool:
    """Whether a text was meant to be replaced by who copied the template: `<public-ip>`, `100.x.x.x`."""
    return isinstance(value, str) and bool(_PLACEHOLDER.search(value))


def plain_host(address: str | None) -> str | None:
    """An address without `user@` and brackets."""
    return address.rpartition("@")[2].strip("[]") if address else None


def _absent(value: Any) -> Any:
    """What holds a place, or nothing at all, is no address."""
    if isinstance(value, str):
        value = value.strip()
        return None if not value or is_placeholder(value) else value
    return value


def _address(value: str | None) -> str | None:
    """A host name or an IP address, perhaps after `user@`."""
    if value is None:
        return None
    user, at, _ = value.rpartition("@")
    host = plain_host(value) or ""
    if (at and not _USER.match(user)) or not (_is_ip(host) or (_NAME.match(host) and not _looks_numeric(host))):
        raise ValueError("must be a host name or an IP address")
    return value


def _ipv6(value: str | None) -> str | None:
    if value is None:
        return None
    try:
        return str(ipaddress.IPv6Address(value.strip("[]")))
    except ValueError:
        raise ValueError("must be an IPv6 address") from None


def _http_url(value: str | None) -> str | None:
    """http or https, a host and nothing secret."""
    if value is None:
        return None
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    if not host or parts.scheme not in ("http", "https") or re.search(r"[\s\x00-\x1f\x7f]", value):
        raise ValueError("must be a URL such as http://host:8766")
    _address(host)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("must be a URL without user, query and fragment")
    return value.rstrip("/")


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _looks_numeric(text: str) -> bool:
    """`10.0.0.300` would pass for a name."""
    return all(part.isdigit() for part in text.rstrip(".").split("."))


Address = Annotated[str | None, BeforeValidator(_absent), AfterValidator(_address)]
Ipv6 = Annotated[str | None, BeforeValidator(_absent), AfterValidator(_ipv6)]
HttpUrl = Annotated[str | None, BeforeValidator(_absent), AfterValidator(_http_url)]

"""The points of SECURITY.md's checklist that can be checked on the shop's machine."""

import ipaddress
import re
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

from shopsphere.settings import MIN_SECRET_BYTES, Settings

ANOTHER_LOOPBACK = "127.0.0.2"
"""Responds only if a program listens on all addresses, not just on 127.0.0.1. macOS does not have
this address, so it cannot be checked there."""


def security_hints(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield the variable and a warning for each setting that is unsafe in a reachable shop."""
    if len(settings.jwt_secret.get_secret_value().encode()) < MIN_SECRET_BYTES:
        yield "JWT_SECRET", "the default, or short: anyone who guesses it can forge tokens"
    urls = (settings.product_service_url, settings.user_service_url, settings.order_service_url)
    reached = [url for url in urls if others_reach(url)]
    if reached and not settings.auth_required:
        yield "AUTH_REQUIRED", f"false, and others can reach {reached[0]}: they may do everything"
    redis_url = settings.redis_full_url
    has_password = bool(re.match(r"[\w+]+://[^@]*:[^@]+@", redis_url))
    if settings.use_redis != "false" and not has_password and others_reach(redis_url):
        yield "REDIS_PASSWORD", "empty, and others can reach Redis: who reaches it owns the shop"


def others_reach(url: str) -> bool:
    """Return whether other machines can reach the program that listens there."""
    try:
        parts = urlsplit(url)
        found = socket.getaddrinfo(parts.hostname, None)
        hosts = [ipaddress.ip_address(str(each[4][0]).partition("%")[0]) for each in found]
        if all(host.is_loopback for host in hosts):
            port = int(parts.netloc.rpartition(":")[2])
            socket.create_connection((ANOTHER_LOOPBACK, port), timeout=1).close()
    except (OSError, ValueError):  # invalid, which is reported elsewhere, unknown, or not there
        return False
    return True

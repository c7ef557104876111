"""HTTP sessions between the parts of ShopSphere, with `requests`."""

import io
import socket
import time
from http.client import HTTPResponse
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, Retry
from urllib3.connection import HTTPConnection, HTTPSConnection

from shopsphere.deadline import TCP_OPTIONS

NO_RETRY = Retry(0, read=False, raise_on_status=False)
"""Without `read=False`, requests reports a missing response as a ConnectionError."""


class _Once(io.RawIOBase):
    """Reads from a socket with one timeout in total, instead of one for each read."""

    def __init__(self, raw: io.RawIOBase, connection: socket.socket) -> None:
        self._raw = raw
        self._connection = connection
        self._ends = time.monotonic() + (connection.gettimeout() or 0)  # all requests have one

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._ends - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._connection.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _WholeResponse(HTTPResponse):
    """One timeout for the whole head of a response; slow headers could block a thread for hours."""

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp = io.BufferedReader(_Once(self.fp.detach(), sock))


class _Connection(HTTPConnection):
    response_class = _WholeResponse


class _TLSConnection(HTTPSConnection):
    response_class = _WholeResponse


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


class _Adapter(HTTPAdapter):
    """Adds TCP_OPTIONS to urllib3's socket options, and applies one timeout to a response."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        ours = [(socket.IPPROTO_TCP, option, value) for option, value in TCP_OPTIONS.items()]
        options["socket_options"] = [*HTTPConnection.default_socket_options, *ours]
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}


def reason_of(error: Exception) -> str:
    """Return why a request got no response, in a few words."""
    if isinstance(error, requests.exceptions.SSLError):
        return f"TLS failed, check CA_FILE: {error}"
    return type(error).__name__


def session(retries: Retry, ca_file: str) -> requests.Session:
    """Return a session with these retries, which ignores the environment.

    `ca_file` names the certificates to trust; if empty, those of `certifi` are trusted.
    """
    opened = requests.Session()
    opened.verify = ca_file or True
    opened.trust_env = False  # no proxies, no passwords from .netrc
    for scheme in ("http://", "https://"):
        opened.mount(scheme, _Adapter(max_retries=retries))
    return opened

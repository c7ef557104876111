"""HTTP sessions in which one part of ShopSphere asks another, with `requests`."""

import socket
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import Retry
from urllib3.connection import HTTPConnection

from shopsphere.deadline import TCP_OPTIONS

RETRIES = Retry(
    status_forcelist=(502, 503, 504),
    allowed_methods=None,  # every request of ours is safe to repeat
    raise_on_status=False,
)
"""What is sent again; `RETRIES.new(total=...)` says how often."""
NEVER_AGAIN = Retry(0, read=False, raise_on_status=False)
"""Without `read=False`, requests calls an answer that does not come a ConnectionError."""


class _Adapter(HTTPAdapter):
    """Sets TCP_OPTIONS besides the socket options of urllib3."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        ours = [(socket.IPPROTO_TCP, option, value) for option, value in TCP_OPTIONS.items()]
        options["socket_options"] = [*HTTPConnection.default_socket_options, *ours]
        super().init_poolmanager(*args, **options)


def session(retries: Retry) -> requests.Session:
    """Return a session that sends again as `retries` says, and takes nothing from elsewhere."""
    opened = requests.Session()
    opened.trust_env = False  # no proxy, and no password from a .netrc
    for scheme in ("http://", "https://"):
        opened.mount(scheme, _Adapter(max_retries=retries))
    return opened

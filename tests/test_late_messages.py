"""What a closed connection left behind can arrive minutes later, if the kernel still sends it.

That it changes nothing then is tested in `test_records.py`.
"""

import os
import socket
import sys
from contextlib import suppress

import pytest

from shopsphere.http_sessions import NO_RETRY, session
from shopsphere.redis_clients.connecting import connect
from shopsphere.settings import Settings
from tests.servers import RedisServer, answering


def timeouts_of_sockets_to(port: int) -> set[int]:
    """Return after how many milliseconds the kernel drops what our sockets have sent there."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError), socket.socket(fileno=os.dup(int(number))) as connection:
            if connection.getpeername()[1:2] == (port,):
                found.add(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))
    return found


@pytest.mark.anyio
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can drop what was sent")
async def test_what_a_closed_socket_left_behind_is_dropped_by_the_kernel(
    redis_server: RedisServer,
) -> None:
    client = await connect(Settings(redis_port=redis_server.port))
    assert timeouts_of_sockets_to(redis_server.port) - {0} == {4000}  # 0 are the tests' own
    await client.close_all()
    with (
        answering(b"unread, so that the socket stays open") as url,
        session(NO_RETRY, "") as http,
        http.get(url, timeout=5, stream=True),
    ):
        assert timeouts_of_sockets_to(int(url.rpartition(":")[2])) - {0} == {4000}

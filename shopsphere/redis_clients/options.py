"""Connection options for Redis, and the parsing of URLs for Sentinels or a Cluster."""

from typing import Any

from redis.asyncio import ConnectionPool
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import FullJitterBackoff

from shopsphere.deadline import TCP_OPTIONS

POOL: dict[str, Any] = {"max_connections": 100, "timeout": 5}
CONNECTION: dict[str, Any] = {
    "socket_timeout": 2,
    "socket_connect_timeout": 1,
    "health_check_interval": 15,
    "decode_responses": True,
    "protocol": 2,  # servers before 6 do not know RESP3, the default of redis-py 8
    "retry": Retry(FullJitterBackoff(cap=0.2, base=0.02), 2),
}
TCP: dict[str, Any] = {"socket_keepalive": True, "socket_keepalive_options": TCP_OPTIONS}


def parts_of(rest: str) -> tuple[list[tuple[str, int]], str, dict[str, Any]]:
    """Return nodes, name and options of `user:password@host:port,host:port/name?options`.

    The options are redis-py's, with user and password, plus `ssl=true`.
    """
    rest, _, query = rest.partition("?")
    login, _, address = rest.rpartition("@")
    nodes, _, name = address.partition("/")
    options: dict[str, Any] = dict(parse_url(f"redis://{login}@?{query}"))
    options["ssl"] = options.get("ssl") == "true"
    split = [node.rpartition(":") for node in nodes.split(",")]
    return [(host.strip("[]"), int(port)) for host, _, port in split], name, options


def try_options(connects: ConnectionPool | ClusterNode) -> None:
    """Raise TypeError, RedisError or OSError if the connection options are not usable."""
    connection = connects.connection_class(**connects.connection_kwargs)
    if isinstance(connection, SSLConnection):
        connection.ssl_context.get()

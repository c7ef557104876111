"""The clients of one Redis, of Sentinels and of a Cluster, with errors turned into ours."""

import asyncio
import builtins
import hashlib
import logging
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import unquote

from redis import exceptions
from redis._parsers import AsyncCommandsParser
from redis._parsers.socket import SERVER_CLOSED_CONNECTION_ERROR
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.cluster import ClusterNode, ClusterPipeline, RedisCluster
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.backoff import FullJitterBackoff, NoBackoff
from redis.exceptions import ConnectionError, RedisClusterException, RedisError, TimeoutError

from shopsphere.deadline import TCP_OPTIONS
from shopsphere.domain.errors import CannotStart, StoreUnavailable
from shopsphere.settings import Settings

log = logging.getLogger("shopsphere.redis")

REFUSALS = (
    exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError
)  # fmt: skip
REFUSAL_WORDS = ("NOAUTH", "NOPERM", "WRONGPASS", "max number of clients")
CANNOT_SERVE = (
    ConnectionError, TimeoutError, RedisClusterException, *REFUSALS,
    exceptions.InvalidResponse, exceptions.ReadOnlyError, exceptions.ClusterError,
    exceptions.OutOfMemoryError,  # type: ignore[attr-defined]  # types-redis
    exceptions.AskError, exceptions.TryAgainError,
)  # fmt: skip
CANNOT_SERVE_WORDS = (
    "LOADING", "READONLY", "OOM ", "used memory > 'maxmemory'", "NOREPLICAS", "MISCONF",
    "CLUSTERDOWN", "MASTERDOWN", "BUSY ", "TRYAGAIN", "non local key", "UNBLOCKED", *REFUSAL_WORDS,
)  # fmt: skip
"""What Redis says in a bare ResponseError, or inside a script's error, when it cannot serve."""

PROBE = "return redis.call('SET', KEYS[1], '1', 'EX', '1')"
"""Tells whether Redis serves: a PING is answered also by one that can neither read nor write."""

POOL: dict[str, Any] = {"max_connections": 100, "timeout": 5}
CONNECTION: dict[str, Any] = {
    "socket_timeout": 2,
    "socket_connect_timeout": 1,
    "health_check_interval": 15,
    "decode_responses": True,
    "protocol": 2,  # RESP3, the default of redis-py 8, is unknown to servers before 6
    "retry": Retry(FullJitterBackoff(cap=0.2, base=0.02), 2),
}
TCP: dict[str, Any] = {"socket_keepalive": True, "socket_keepalive_options": TCP_OPTIONS}


class NothingAnswers(Exception):
    """At the address of Redis there is nothing that answers."""


def _cannot_serve(error: RedisError | RedisClusterException) -> bool:
    return isinstance(error, CANNOT_SERVE) or any(word in str(error) for word in CANNOT_SERVE_WORDS)


@contextmanager
def our_errors() -> Iterator[None]:
    """Raise StoreUnavailable for every way in which Redis cannot serve; the log says why.

    Also raise a cancellation that came meanwhile and was swallowed by asyncio.wait_for of Python
    3.11, through which redis-py 8.1 sends: what is not told to end goes on, past its time.
    """
    task = asyncio.current_task()
    cancellations = task.cancelling() if task else 0
    try:
        yield
        if task and task.cancelling() > cancellations:
            raise asyncio.CancelledError
    except (RedisError, RedisClusterException) as error:
        if _cannot_serve(error):
            log.warning("Redis cannot serve now: %s: %.300s", type(error).__name__, error)
            raise StoreUnavailable from error
        raise


class _KnownCommands(AsyncCommandsParser):
    """Where keys stand in commands, asked once: redis-py asks each time, and also a dead node."""

    async def initialize(self, node: ClusterNode | None = None) -> None:
        if not self.commands:
            await super().initialize(node)


class Script:
    """A script that Redis runs in one step.

    It is sent whole where Redis does not know it. redis-py 8.1 loads it first, and fails if it is
    forgotten in between.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._digest = hashlib.sha1(text.encode()).hexdigest()  # noqa: S324  # names it at Redis

    async def run(
        self, client: "ShopRedis", keys: Sequence[str], *args: Any, is_urgent: bool = False
    ) -> Any:
        """Run it on this client; what is urgent does not share a pipeline."""
        execute = client.execute_urgently if is_urgent else client.execute_command
        try:
            return await execute("EVALSHA", self._digest, len(keys), *keys, *args)
        except exceptions.NoScriptError:
            return await execute("EVAL", self._text, len(keys), *keys, *args)


class ShopRedis(Redis):
    """A client of one Redis, with our errors.

    Commands that come in one turn of the event loop go out together, in the order in which they
    came: a pipeline costs little more than a command, here and at Redis.
    """

    def __init__(self, connection_pool: ConnectionPool) -> None:
        super().__init__(connection_pool=connection_pool, decode_responses=True)
        self._waiting: list[tuple[Any, Any, asyncio.Future[Any]]] = []
        self._sending: set[asyncio.Task[None]] = set()

    async def info_of_all(self) -> list[dict[str, object]]:
        """Return what each Redis that holds a part of the data says of itself: here one."""
        return [dict(await self.info())]

    async def greet(self) -> None:
        """Return when Redis answers; otherwise raise what redis-py raises."""
        await self.ask("PING")

    async def close_all(self) -> None:
        """Close all connections."""
        await self.connection_pool.aclose()

    async def ask(self, *args: Any, **options: Any) -> Any:
        """Send one command, and let Redis's own errors through."""
        return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]  # types-redis

    async def execute_urgently(self, *args: Any) -> Any:
        """Send one command at once, over a connection that it has to itself."""
        with our_errors():
            return await self.ask(*args)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append((args, options, answer))
        if len(self._waiting) == 1:
            sending = asyncio.create_task(self._ask_all())
            self._sending.add(sending)
            sending.add_done_callback(self._sending.discard)
        with our_errors():
            found = await answer
            if isinstance(found, Exception):
                raise found
            return found

    async def _ask_all(self) -> None:
        """Send the commands that wait; a new task begins in the next turn of the event loop."""
        waiting, self._waiting = self._waiting, []
        found: list[Any] = [ConnectionError("The command may not be sent.")] * len(waiting)
        try:
            if len(waiting) == 1:
                [(args, options, _)] = waiting
                found = [await self.ask(*args, **options)]
            else:
                async with self.pipeline(transaction=False) as pipe:
                    for args, options, _ in waiting:
                        pipe.execute_command(*args, **options)
                    found = await pipe.execute(raise_on_error=False)
        except Exception as error:  # noqa: BLE001  # raised to each who asked
            found = [error] * len(waiting)
        finally:
            for (_, _, answer), each in zip(waiting, found, strict=True):
                if not answer.done():  # otherwise, who asked has given up
                    answer.set_result(each)


class _AsksSentinels(SentinelManagedConnection):
    """Ask for the master before a command is repeated: redis-py 8.1 goes back to where it was."""

    async def send_packed_command(self, *args: Any, **options: Any) -> None:
        if not self.is_connected:
            await self.connect()
        await super().send_packed_command(*args, **options)


class _AsksSentinelsTLS(_AsksSentinels, SentinelManagedSSLConnection): ...


class _SentinelPool(SentinelConnectionPool, BlockingConnectionPool):
    """Connections to the present master; who finds none free waits, as with one Redis."""


class ShopMaster(ShopRedis):
    """A client of the master that Sentinels name at the moment, with our errors."""

    connection_pool: SentinelConnectionPool

    async def greet(self) -> None:
        """Here it is the Sentinels that answer, also while there is no master."""
        try:
            await super().greet()
        except (ConnectionError, TimeoutError) as error:
            if not _is_refusal(error) and await self._hears_sentinel():
                raise CannotStart(
                    "The Sentinels name no master that serves us. Wait until there is one, or "
                    "check name, user and password in REDIS_URL."
                ) from error
            raise

    async def close_all(self) -> None:
        """Close all connections, also to the Sentinels."""
        await super().close_all()
        await self.connection_pool.sentinel_manager.aclose()  # type: ignore[attr-defined]  # as above

    async def _hears_sentinel(self) -> bool:
        sentinels = self.connection_pool.sentinel_manager.sentinels
        answers = await asyncio.gather(*(s.ping() for s in sentinels), return_exceptions=True)
        return any(
            _is_refusal(answer) or not isinstance(answer, (ConnectionError, TimeoutError))
            for answer in answers
        )


class _ClusterPipeline(ClusterPipeline):
    def __init__(self, client: RedisCluster, turns: asyncio.Semaphore) -> None:
        super().__init__(client)
        self._turns = turns

    async def execute(self, raise_on_error: bool = True, allow_redirections: bool = True) -> Any:
        async with _turn(self._turns):
            return await super().execute(raise_on_error, allow_redirections)


class ShopCluster(RedisCluster):
    """A client of a Redis Cluster, with our errors.

    redis-py 8.1 reads the layout of the Cluster again whenever a node fails, and is then in the way
    of all commands that the failure does not concern; hence the overrides below.
    """

    def __init__(self, **options: Any) -> None:
        # Half of them for pipelines, which may have to repeat commands one by one.
        super().__init__(**options, max_connections=2 * POOL["max_connections"])
        self._commands = asyncio.Semaphore(POOL["max_connections"])
        self._pipelines = asyncio.Semaphore(POOL["max_connections"])
        self.commands_parser = _KnownCommands()  # type: ignore[assignment]  # as above

    async def aclose(self) -> None:
        """Read the layout again: called by redis-py, which here closes what other commands use."""
        self._initialize = True

    async def greet(self) -> None:
        """Return when a node of the Cluster answers; otherwise raise what redis-py raises."""
        await self.initialize()

    async def info_of_all(self) -> list[dict[str, object]]:
        """Return what each master of the Cluster says of itself."""
        masters = self.get_primaries()
        return [dict(await self.execute_command("INFO", target_nodes=each)) for each in masters]

    async def close_all(self) -> None:
        """Close all connections."""
        self._initialize = True  # as it is when nothing is open; otherwise redis-py complains
        await self.nodes_manager.aclose()  # type: ignore[attr-defined]  # as above
        await self.nodes_manager.aclose("startup_nodes")  # type: ignore[attr-defined]  # as above

    async def ask(self, *args: Any, **options: Any) -> Any:
        """Send one command, and let Redis's own errors through."""
        return await super().execute_command(*args, **options)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        async with _turn(self._commands):
            return await self.ask(*args, **options)

    execute_urgently = execute_command

    def pipeline(self, transaction: object = None, shard_hint: object = None) -> ClusterPipeline:
        """Return a pipeline with our errors. Commands of several keys make one by themselves."""
        return _ClusterPipeline(self, self._pipelines)


@asynccontextmanager
async def _turn(turns: asyncio.Semaphore) -> AsyncIterator[None]:
    """Wait for a turn as long as for a connection of a pool; turn errors into ours."""
    with our_errors():
        try:
            await asyncio.wait_for(turns.acquire(), POOL["timeout"])
        except builtins.TimeoutError:
            raise ConnectionError("No connection available.") from None
        try:
            yield
        except (AttributeError, RuntimeError) as error:
            # So redis-py 8.1 has it when another command's failure closed the connection, and when
            # a command belongs to a node that is new to the Cluster.
            raise ConnectionError("The connection was closed meanwhile.") from error
        finally:
            turns.release()


@asynccontextmanager
async def pipeline(client: ShopRedis) -> AsyncIterator[Pipeline]:
    """Yield a pipeline, not atomic; its commands go out together in `await pipe.execute()`."""
    with our_errors():
        async with client.pipeline(transaction=False) as pipe:
            yield pipe


def _client(settings: Settings) -> ShopRedis:
    """Make the client. A command is repeated when its connection breaks, so all must bear that."""
    url = settings.redis_full_url
    scheme, _, rest = url.partition("://")
    try:
        if scheme == "redis+sentinel":
            return _sentinel_client(rest)
        if scheme == "redis+cluster":
            return _cluster_client(rest)
        tcp = {} if scheme == "unix" else TCP
        pool: BlockingConnectionPool = BlockingConnectionPool.from_url(
            url, **POOL, **CONNECTION, **tcp
        )
        _try_options(pool)
        return ShopRedis(connection_pool=pool)
    except (ValueError, TypeError, RedisError, RedisClusterException):
        raise CannotStart(
            "REDIS_URL, or REDIS_HOST, is no valid address, such as redis://localhost:6379/0, or "
            "has an option that is not known."
        ) from None
    except OSError as error:
        raise CannotStart(f"REDIS_URL names a certificate or key that is none: {error}.") from None


def _sentinel_client(rest: str) -> ShopRedis:
    """Make a client of the master that the Sentinels name; all share user and password.

    A Sentinel that asks for no password takes any, if it is told the user, from Redis 6 on.
    """
    nodes, name, login, options = _parts(rest)
    if not name:
        raise ValueError("the name of the master is missing")
    once = CONNECTION | TCP | {"retry": Retry(NoBackoff(), 0)}
    user = {"username": "default"} if login else {}
    sentinels = Sentinel(nodes, sentinel_kwargs=once | options | user | login)
    is_tls = options.pop("ssl")
    pool = _SentinelPool(
        name,
        sentinels,
        connection_class=_AsksSentinelsTLS if is_tls else _AsksSentinels,
        **POOL | CONNECTION | TCP | options | login,
    )
    _try_options(pool)
    return ShopMaster(connection_pool=pool)


def _cluster_client(rest: str) -> ShopRedis:
    nodes, _, login, options = _parts(rest)
    startup_nodes = [ClusterNode(host, port) for host, port in nodes]
    cluster = ShopCluster(startup_nodes=startup_nodes, **CONNECTION | TCP | options | login)
    for node in cluster.nodes_manager.startup_nodes.values():
        _try_options(node)
    # It takes the same commands, which is all that the stores know of a client.
    return cluster  # type: ignore[return-value]


def _parts(rest: str) -> tuple[list[tuple[str, int]], str, dict[str, Any], dict[str, Any]]:
    """Return nodes, name, login and options of `user:password@host:port,host:port/name?options`.

    The options are those of redis-py, and `ssl=true`.
    """
    rest, _, query = rest.partition("?")
    userinfo, _, address = rest.rpartition("@")
    nodes, _, name = address.partition("/")
    username, _, password = (unquote(part) for part in userinfo.partition(":"))
    given = {"username": username, "password": password}
    login: dict[str, Any] = {key: value for key, value in given.items() if value}
    options: dict[str, Any] = dict(parse_url(f"redis://?{query}"))
    options["ssl"] = options.get("ssl") == "true"
    split = [node.rpartition(":") for node in nodes.split(",")]
    return [(host.strip("[]"), int(port)) for host, _, port in split], name, login, options


def _try_options(connects: ConnectionPool | ClusterNode) -> None:
    """Raise TypeError, RedisError or OSError if no connection can be made with its options."""
    connection = connects.connection_class(**connects.connection_kwargs)
    if isinstance(connection, SSLConnection):
        connection.ssl_context.get()


async def connect(settings: Settings) -> ShopRedis:
    """Open the client of this process and see that Redis serves it; wait while it is loading.

    Raise NothingAnswers when nothing is there, CannotStart when Redis is there and refuses.
    """
    client = _client(settings)
    try:
        while not await _serves(client, f"{settings.redis_prefix}:probe"):
            log.warning("Redis is loading its data; waiting for it")
            await asyncio.sleep(0.5)
    except BaseException:
        await client.close_all()
        raise
    return client


async def _serves(client: ShopRedis, probe: str) -> bool:
    """Tell whether Redis has loaded its data."""
    is_there = False
    try:
        await client.greet()
        is_there = True
        await client.ask("EVAL", PROBE, 1, probe)
    except (RedisError, RedisClusterException) as error:
        causes = list(_causes(error))

        def came_of(*kinds: type[Exception]) -> bool:
            return any(isinstance(cause, kinds) for cause in causes)

        if came_of(exceptions.BusyLoadingError):
            return False
        if came_of(ssl.SSLError):
            raise CannotStart(
                f"Redis cannot be trusted ({error}). Check its certificate, and ssl_ca_certs in "
                "REDIS_URL."
            ) from error
        if any(_is_refusal(cause) for cause in causes):
            raise CannotStart(
                f"Redis is there but refuses us ({error}). Check REDIS_URL or REDIS_PASSWORD and "
                "the permissions of that Redis user."
            ) from error
        if is_there and _cannot_serve(error):
            log.warning("Redis answers, but cannot write now: %s", error)
        elif came_of(ConnectionError, TimeoutError) and not (
            came_of(exceptions.ResponseError) or any(_was_closed(cause) for cause in causes)
        ):
            raise NothingAnswers from error
        else:
            raise CannotStart(
                "What listens at REDIS_URL, or REDIS_HOST, REDIS_PORT, does not serve us: "
                f"{error}. Is it a Redis? Is it for TLS (rediss://)? Has it too many clients?"
            ) from error
    return True


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error, and what it came of."""
    while error:
        yield error
        error = error.__cause__ or error.__context__


def _was_closed(error: object) -> bool:
    """Tell whether somebody listens there: where nobody does, a connection is refused, or late."""
    return isinstance(error, ConnectionResetError) or str(error) == SERVER_CLOSED_CONNECTION_ERROR


def _is_refusal(error: object) -> bool:
    return isinstance(error, REFUSALS) or any(word in str(error) for word in REFUSAL_WORDS)

"""The Redis connection: the client, its errors turned into ours, the base record, the scripts."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self
from urllib.parse import unquote

from aredis_om import HashModel
from limits.aio.storage import RedisStorage
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import FullJitterBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import (  # type: ignore[attr-defined]  # types-redis: OutOfMemoryError
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterError,
    ConnectionError,
    InvalidResponse,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    TimeoutError,
    TryAgainError,
)

from shopsphere.errors import CannotStart, StoreUnavailable
from shopsphere.settings import Settings

log = logging.getLogger("shopsphere.redis")

SCRIPTS = Path(__file__).parent / "redis_stores"
REFUSALS = (AuthenticationError, AuthorizationError, NoPermissionError)
REFUSAL_WORDS = ("NOAUTH", "NOPERM", "WRONGPASS", "max number of clients")
CANNOT_SERVE = (
    ConnectionError, TimeoutError, ReadOnlyError, OutOfMemoryError, ClusterError, TryAgainError,
    RedisClusterException, InvalidResponse, *REFUSALS,
)  # fmt: skip
CANNOT_SERVE_WORDS = (
    "LOADING", "READONLY", "OOM ", "NOREPLICAS", "MISCONF", "CLUSTERDOWN", "MASTERDOWN",
    "BUSY ", "TRYAGAIN", "UNBLOCKED", *REFUSAL_WORDS,
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


class NothingAnswers(Exception):
    """At the address of Redis there is nothing that answers."""


def _cannot_serve(error: RedisError | RedisClusterException) -> bool:
    return isinstance(error, CANNOT_SERVE) or any(word in str(error) for word in CANNOT_SERVE_WORDS)


def _refuses(error: RedisError | RedisClusterException) -> bool:
    """Tell whether this will not pass by itself: what is there refuses us, or is no Redis."""
    is_refusal = isinstance(error, (*REFUSALS, InvalidResponse)) or any(
        word in str(error) for word in REFUSAL_WORDS
    )
    return is_refusal or not _cannot_serve(error)


def _store_unavailable(error: RedisError | RedisClusterException) -> StoreUnavailable:
    """Say that Redis cannot serve; the reason goes into the log, not to the caller."""
    log.warning("Redis cannot serve now: %s: %s", type(error).__name__, error)
    return StoreUnavailable()


if TYPE_CHECKING:  # types-redis, which redis-om brings, makes them generic; redis-py does not
    TextRedis = Redis[str]
    TextCluster = RedisCluster[str]
    TextPipeline = Pipeline[str]
    BlockingPool = BlockingConnectionPool[Any]
    SentinelPool = SentinelConnectionPool[Any]
else:
    TextRedis, TextCluster, TextPipeline = Redis, RedisCluster, Pipeline
    BlockingPool, SentinelPool = BlockingConnectionPool, SentinelConnectionPool


@contextmanager
def our_errors() -> Iterator[None]:
    """Raise StoreUnavailable for every way in which Redis cannot serve.

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
            raise _store_unavailable(error) from error
        raise


class ShopRedis(TextRedis):
    """A client of one Redis, or of the master that a Sentinel names, with our errors.

    Commands that come in one turn of the event loop go out together, in the order in which they
    came: a pipeline costs little more than a command, here and at Redis.
    """

    def __init__(self, connection_pool: BlockingPool | SentinelPool) -> None:
        super().__init__(connection_pool=connection_pool, decode_responses=True)
        self._waiting: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self._answers: asyncio.Task[list[Any]] | None = None

    async def ask(self, *args: Any, **options: Any) -> Any:
        """Send one command, and let Redis's own errors through."""
        return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]  # types-redis

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        place = len(self._waiting)
        self._waiting.append((args, options))
        answers = self._answers
        if answers is None:
            answers = self._answers = asyncio.create_task(self._ask_all())
        with our_errors():
            answer = (await asyncio.shield(answers))[place]
            if isinstance(answer, RedisError):
                raise answer
            return answer

    async def _ask_all(self) -> list[Any]:
        """Send the commands that wait; a new task begins in the next turn of the event loop.

        Errors are answers too: where all who asked have given up, nobody would take what is raised.
        """
        commands, self._waiting, self._answers = self._waiting, [], None
        try:
            if len(commands) == 1:
                [(args, options)] = commands
                return [await self.ask(*args, **options)]
            async with self.pipeline(transaction=False) as pipe:
                for args, options in commands:
                    pipe.execute_command(*args, **options)
                answers: list[Any] = await pipe.execute(raise_on_error=False)
                return answers
        except RedisError as error:
            return [error] * len(commands)


class ShopCluster(TextCluster):
    """A client of a Redis Cluster, with our errors."""

    async def ask(self, *args: Any, **options: Any) -> Any:
        """Send one command, and let Redis's own errors through."""
        return await super().execute_command(*args, **options)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        with our_errors():
            return await self.ask(*args, **options)


@asynccontextmanager
async def pipeline(client: ShopRedis) -> AsyncIterator[TextPipeline]:
    """Yield a pipeline, not atomic; its commands go out together in `await pipe.execute()`."""
    async with client.pipeline(transaction=False) as pipe:
        with our_errors():
            yield pipe


class _SentinelPool(SentinelPool, BlockingPool):
    """Connections to the present master; who finds none free waits, as with one Redis."""


def _client(settings: Settings) -> ShopRedis:
    """Make the client. A command is repeated when its connection breaks, so all must bear that."""
    scheme, _, rest = settings.redis_full_url.partition("://")
    try:
        if scheme == "redis+sentinel":
            return _sentinel_client(rest)
        if scheme == "redis+cluster":
            return _cluster_client(rest)
        pool: BlockingPool = BlockingPool.from_url(settings.redis_full_url, **POOL, **CONNECTION)
        pool.connection_class(**pool.connection_kwargs)  # refuses options that it does not know
        return _client_of(pool)
    except (TypeError, ValueError):
        raise CannotStart(
            "REDIS_URL, or REDIS_HOST, is no valid address, such as redis://localhost:6379/0"
        ) from None


def _client_of(pool: BlockingPool | SentinelPool) -> ShopRedis:
    """Make a client that closes the connections of the pool when it is closed."""
    client: ShopRedis = ShopRedis.from_pool(pool)  # type: ignore[attr-defined]  # types-redis describes redis-py 4
    return client


def _sentinel_client(rest: str) -> ShopRedis:
    """Make a client of the master that the Sentinels name; they share its user and password."""
    login, nodes, name = _parts(rest)
    if not name:
        raise ValueError("the name of the master is missing")
    waits = {key: CONNECTION[key] for key in ("socket_timeout", "socket_connect_timeout")}
    sentinel = Sentinel(nodes, sentinel_kwargs=waits | {"protocol": 2}, **CONNECTION, **login)
    pool = _SentinelPool(name, sentinel, **POOL, **CONNECTION, **login)
    return _client_of(pool)


def _cluster_client(rest: str) -> ShopRedis:
    login, nodes, _ = _parts(rest)
    startup_nodes = [ClusterNode(host, port) for host, port in nodes]
    cluster = ShopCluster(startup_nodes=startup_nodes, max_connections=100, **CONNECTION, **login)
    # It takes the same commands, which is all that the stores know of a client.
    return cluster  # type: ignore[return-value]


def _parts(rest: str) -> tuple[dict[str, Any], list[tuple[str, int]], str]:
    """Return login, nodes and name of `user:password@host:port,host:port/name`."""
    login, _, address = rest.rpartition("@")
    nodes, _, name = address.partition("/")
    username, _, password = (unquote(part) for part in login.partition(":"))
    given = {"username": username, "password": password}
    split = [node.rpartition(":") for node in nodes.split(",")]
    return (
        {key: value for key, value in given.items() if value},
        [(host.strip("[]"), int(port)) for host, _, port in split],
        name.partition("?")[0],
    )


async def close(client: ShopRedis) -> None:
    """Close all connections of the client, which are its pool's."""
    await client.aclose(close_connection_pool=True)  # type: ignore[attr-defined]  # types-redis describes redis-py 4


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
        await close(client)
        raise
    return client


async def _serves(client: ShopRedis, probe: str) -> bool:
    """Tell whether Redis has its data; that it cannot write for now does not stop the start."""
    try:
        await client.ask("EVAL", PROBE, 1, probe)
    except BusyLoadingError:
        return False
    except RedisError as error:
        if _refuses(error):
            raise CannotStart(
                f"What answers there refuses us, or is no Redis ({error}). Check REDIS_URL, or "
                "REDIS_HOST, REDIS_PORT and REDIS_PASSWORD, and the permissions of that Redis user."
            ) from error
        if isinstance(error, ConnectionError | TimeoutError):
            raise NothingAnswers from error
        log.warning("Redis answers, but cannot write now: %s", error)
    return True


class Record(HashModel):
    """The base of every redis-om record: one client per process, the pk as the hash tag."""

    _client: ClassVar[ShopRedis]
    _prefix: ClassVar[str]

    class Meta:
        primary_key_pattern = "{{{pk}}}"

    @classmethod
    def key_of(cls, pk: str) -> str:
        """Return the key of the record with this pk."""
        return str(cls.make_primary_key(pk))

    @classmethod
    def use(cls, client: ShopRedis, prefix: str) -> None:
        """Have the records of this class live in this Redis, under this prefix."""
        cls._client = client
        cls._prefix = prefix

    @classmethod
    def db(cls) -> ShopRedis:
        # redis-om 1.2.0 copies Meta.database at class definition, before there is a client.
        return cls._client

    @classmethod
    def make_key(cls, part: str) -> str:
        return f"{cls._prefix}:{cls._meta.model_key_prefix}:{part}"

    @classmethod
    async def fetch(cls, pks: Sequence[str]) -> list[Self | None]:
        """Return the records of these pks in one round trip, None for each that is not there."""
        if not pks:
            return []
        async with pipeline(cls.db()) as pipe:
            for pk in pks:
                pipe.hgetall(cls.key_of(pk))
            found = await pipe.execute()
        return [cls.model_validate(fields) if fields else None for fields in found]

    @classmethod
    def from_flat(cls, answer: Sequence[str]) -> Self:
        """Return the record of an HGETALL that a script made: names and values in turn."""
        return cls.model_validate(dict(zip(answer[::2], answer[1::2], strict=True)))

    def flat(self) -> list[str]:
        """Return names and values in turn, as HSET takes them; empty texts are left out."""
        document = self.model_dump(mode="json")
        return [str(part) for pair in document.items() if pair[1] != "" for part in pair]


class Counters(RedisStorage):
    """Where `limits` counts: through our client, and so with our errors, on Sentinel and Cluster.

    A count whose reply is lost may be counted twice, as commands are repeated.
    """

    def __init__(self, client: ShopRedis, prefix: str) -> None:
        self._client = client
        super().__init__("async+redis://", implementation="redispy", key_prefix=prefix)

    def configure_bridge(self) -> None:
        # limits 5.8 makes a client of its own here, from its URI.
        self.bridge.connection_getter = lambda _: self._client  # type: ignore[attr-defined]  # of RedispyBridge


class RedisStore:
    """What the Redis stores have in common."""

    def __init__(self, client: ShopRedis, prefix: str) -> None:
        self._client = client
        self._prefix = prefix

    async def ping(self) -> None:
        await self._client.execute_command("EVAL", PROBE, 1, f"{self._prefix}:probe")

    async def close(self) -> None:
        await close(self._client)

    def _script(self, name: str) -> AsyncScript:
        """Return the Lua script of this name; called with keys of one slot, it is one step."""
        return self._client.register_script((SCRIPTS / f"{name}.lua").read_text(encoding="utf-8"))

    async def _list_above(self, key: str, after: str | None, count: int) -> list[str]:
        """Return up to `count` members of a list of pks that are above `after`."""
        low = f"({after}" if after else "-"
        members: Iterable[str] = await self._client.zrangebylex(key, low, "+", 0, count)
        return list(members)

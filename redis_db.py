"""The Redis connection: the client, its errors turned into ours, the base record, the scripts."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from aredis_om import HashModel
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.retry import Retry
from redis.backoff import FullJitterBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import (  # type: ignore[attr-defined]  # types-redis: OutOfMemoryError
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
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
    ConnectionError, TimeoutError, ReadOnlyError, OutOfMemoryError, ClusterDownError, TryAgainError,
    *REFUSALS,
)  # fmt: skip
CANNOT_SERVE_WORDS = (
    "LOADING", "READONLY", "OOM ", "NOREPLICAS", "MISCONF", "CLUSTERDOWN", "MASTERDOWN",
    "BUSY ", "TRYAGAIN", "UNBLOCKED", *REFUSAL_WORDS,
)  # fmt: skip
"""What Redis says in a bare ResponseError, or inside a script's error, when it cannot serve."""

PROBE = "return redis.call('SET', KEYS[1], '1', 'EX', '1')"
"""Tells whether Redis serves: a PING is answered also by one that can neither read nor write."""


class NothingAnswers(Exception):
    """At the address of Redis there is nothing that answers."""


def _cannot_serve(error: RedisError) -> bool:
    return isinstance(error, CANNOT_SERVE) or any(word in str(error) for word in CANNOT_SERVE_WORDS)


def _refuses(error: RedisError) -> bool:
    """Tell whether this will not pass by itself: what is there refuses us, or is no Redis."""
    is_refusal = isinstance(error, REFUSALS) or any(word in str(error) for word in REFUSAL_WORDS)
    return is_refusal or not _cannot_serve(error)


def _store_unavailable(error: RedisError) -> StoreUnavailable:
    """Say that Redis cannot serve; the reason goes into the log, not to the caller."""
    log.warning("Redis cannot serve now: %s: %s", type(error).__name__, error)
    return StoreUnavailable()


if TYPE_CHECKING:  # types-redis, which redis-om brings, makes them generic; redis-py does not
    TextRedis = Redis[str]
    TextPipeline = Pipeline[str]
else:
    TextRedis, TextPipeline = Redis, Pipeline


class ShopRedis(TextRedis):
    """A Redis client that raises StoreUnavailable for every way in which Redis cannot serve."""

    async def ask(self, *args: Any, **options: Any) -> Any:
        """Send one command, and let Redis's own errors through."""
        return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]  # types-redis

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        try:
            return await self.ask(*args, **options)
        except RedisError as error:
            if _cannot_serve(error):
                raise _store_unavailable(error) from error
            raise


@asynccontextmanager
async def pipeline(client: ShopRedis) -> AsyncIterator[TextPipeline]:
    """Yield a pipeline, not atomic; its commands go out together in `await pipe.execute()`."""
    async with client.pipeline(transaction=False) as pipe:
        try:
            yield pipe
        except RedisError as error:
            if _cannot_serve(error):
                raise _store_unavailable(error) from error
            raise


def _client(settings: Settings) -> ShopRedis:
    """Make the client. A command is repeated when its connection breaks, so all must bear that."""
    try:
        pool: BlockingConnectionPool[Any] = BlockingConnectionPool.from_url(
            settings.redis_full_url,
            max_connections=100,
            timeout=5,
            socket_timeout=2,
            socket_connect_timeout=1,
            health_check_interval=15,
            decode_responses=True,
            protocol=2,  # RESP3, the default of redis-py 8, is unknown to servers before 6
            retry=Retry(FullJitterBackoff(cap=0.2, base=0.02), 2),
        )
        pool.connection_class(**pool.connection_kwargs)  # refuses options that it does not know
    except (TypeError, ValueError):
        raise CannotStart(
            "REDIS_URL, or REDIS_HOST, is no valid address, such as redis://localhost:6379/0"
        ) from None
    return ShopRedis(connection_pool=pool)


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

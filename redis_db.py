"""What the stores on Redis stand on: the base record, the scripts."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from aredis_om import HashModel

from redis_clients import PROBE, ShopRedis, pipeline

SCRIPTS = Path(__file__).parent / "redis_stores"


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
        self._scripts = {
            file.stem: client.register_script(file.read_text(encoding="utf-8"))
            for file in SCRIPTS.glob("*.lua")
        }

    async def ping(self) -> None:
        await self._client.execute_command("EVAL", PROBE, 1, f"{self._prefix}:probe")

    async def close(self) -> None:
        await self._client.close_all()

    async def _run(self, script: str, keys: list[str], *args: str | bytes | float) -> Any:
        """Run the Lua script of this name, whose keys are of one slot: it is one step."""
        return await self._scripts[script](keys=keys, args=args)

    async def _list_above(self, key: str, after: str | None, count: int) -> list[str]:
        """Return up to `count` members of a list of pks that are above `after`."""
        low = f"({after}" if after else "-"
        members: Iterable[str] = await self._client.zrangebylex(key, low, "+", 0, count)
        return list(members)

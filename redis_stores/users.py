"""Users on Redis: a record each, and a key per email that names its user."""

from limits.aio.storage import RedisStorage, Storage

from redis_clients import ShopRedis
from redis_db import Record, RedisStore
from shopsphere.errors import EmailTaken
from shopsphere.models import Role, User


class UserRecord(Record, index=True):
    email: str
    password_hash: str
    role: Role

    class Meta:
        model_key_prefix = "user"


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


class RedisUserStore(RedisStore):
    """`UserStore` on Redis."""

    def __init__(self, client: ShopRedis, prefix: str) -> None:
        super().__init__(client, prefix)
        UserRecord.use(client, prefix)
        self.counters: Storage = Counters(client, prefix)

    async def add(self, user: User) -> None:
        """The record comes before the claim on the address: a crash in between blocks nobody."""
        record = UserRecord(
            pk=user.pk, email=user.email, password_hash=user.password_hash, role=user.role
        )
        await record.save()
        if not await self._claim(user.email, user.pk):
            await UserRecord.delete(user.pk)
            raise EmailTaken

    async def get(self, pk: str) -> User | None:
        [record] = await UserRecord.fetch([pk])
        if record is None:
            return None
        return User(pk, record.email, record.password_hash, record.role)

    async def find(self, email: str) -> User | None:
        pk = await self._client.get(self._email_key(email))
        return await self.get(pk) if pk else None

    async def set_password(self, user: User, password_hash: str, role: Role) -> bool:
        key = UserRecord.key_of(user.pk)
        hashes = user.password_hash, password_hash
        return bool(await self._run("set_password", [key], *hashes, role.value))

    async def _claim(self, email: str, pk: str) -> bool:
        key = self._email_key(email)
        return bool(await self._client.set(key, pk, nx=True)) or await self._client.get(key) == pk

    def _email_key(self, email: str) -> str:
        return f"{self._prefix}:email:{email}"

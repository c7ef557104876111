"""Orders on Redis: a record each, marks with the time of Redis, and lists of pks."""

from redis_db import Record, RedisStore, ShopRedis, pipeline
from shopsphere.errors import OrderNotFound
from shopsphere.models import SEEN, Order, OrderStatus, Page, Reservation
from shopsphere.stores import DAY_SECONDS


class OrderRecord(Record, index=True):
    """What a FAILED record made by settling lacks has defaults: it is never shown."""

    status: OrderStatus
    product_id: str = ""
    product_name: str = ""
    quantity: int = 0
    unit_price_cents: int = 0
    user_id: str = ""

    class Meta:
        model_key_prefix = "order"

    def order(self) -> Order:
        return Order(
            str(self.pk),
            self.product_id,
            self.product_name,
            self.quantity,
            self.unit_price_cents,
            self.status,
            self.user_id or None,
        )


class RedisOrderStore(RedisStore):
    """`OrderStore` on Redis."""

    def __init__(self, client: ShopRedis, prefix: str) -> None:
        super().__init__(client, prefix)
        OrderRecord.use(client, prefix)
        self._placing = f"{prefix}:orders-being-placed"
        self._create = self._script("create_record")
        self._mark = self._script("mark")
        self._move = self._script("move_order")

    async def mark_placing(self, pk: str, product_id: str) -> None:
        await self._mark(keys=[self._placing], args=[f"{pk} {product_id}"])

    async def unmark_placing(self, pk: str, product_id: str) -> None:
        await self._client.zrem(self._placing, f"{pk} {product_id}")

    async def create(self, order: Order) -> OrderStatus:
        record = OrderRecord(
            pk=order.pk,
            status=order.status,
            product_id=order.product_id,
            quantity=order.quantity,
            user_id=order.user_id or "",
        )
        args = ["status", *record.flat()]
        return OrderStatus(await self._create(keys=[OrderRecord.key_of(order.pk)], args=args))

    async def place(self, pk: str, reservation: Reservation) -> Order | None:
        name, price_cents = reservation.product_name, str(reservation.unit_price_cents)
        new = ["product_name", name, "unit_price_cents", price_cents]
        record = await self._moved(pk, "PENDING", OrderStatus.PLACED, 0, new)
        return record.order() if record and record.status in SEEN else None

    async def fail(self, pk: str) -> OrderStatus:
        own = ["pk", pk]
        record = await self._moved(pk, "PENDING FAILED NONE", OrderStatus.FAILED, DAY_SECONDS, own)
        return record.status if record else OrderStatus.FAILED

    async def list_order(self, order: Order) -> None:
        async with pipeline(self._client) as pipe:
            pipe.zadd(self._list(None), {order.pk: 0})
            if order.user_id:
                pipe.zadd(self._list(order.user_id), {order.pk: 0})
            await pipe.execute()

    async def get(self, pk: str) -> Order:
        [record] = await OrderRecord.fetch([pk])
        if record is None or record.status not in SEEN:
            raise OrderNotFound
        return record.order()

    async def list_page(self, user_id: str | None, after: str | None, limit: int) -> Page[Order]:
        pks = await self._list_above(self._list(user_id), after, limit + 1)
        records = await OrderRecord.fetch(pks[:limit])
        orders = [record.order() for record in records if record and record.status in SEEN]
        return Page(orders, pks[limit - 1] if len(pks) > limit else None)

    async def _moved(
        self, pk: str, old: str, new: OrderStatus, seconds: int, fields: list[str]
    ) -> OrderRecord | None:
        key = OrderRecord.key_of(pk)
        answer = await self._move(keys=[key], args=[old, new.value, seconds, *fields])
        return OrderRecord.from_flat(answer) if answer else None

    def _list(self, user_id: str | None) -> str:
        return f"{self._prefix}:orders:{user_id}" if user_id else f"{self._prefix}:orders"

"""Orders on Redis: a record each, marks with the time of Redis, lists of pks, idempotency keys."""

import asyncio

from redis_clients import ShopRedis, pipeline
from redis_db import Record, RedisStore
from shopsphere.errors import IdempotencyKeyReused, OrderNotFound
from shopsphere.models import SEEN, Command, Mark, Order, OrderStatus, Page, Reservation
from shopsphere.stores import DAY_SECONDS, Claim

MARKS_AT_ONCE = 1000


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

    async def mark(self, mark: Mark) -> None:
        await self._run("mark_order", [self._marks(mark.command)], _said(mark))

    async def unmark(self, mark: Mark) -> bool:
        return bool(await self._client.zrem(self._marks(mark.command), _said(mark)))

    async def old_marks(self, seconds: float) -> list[Mark]:
        found: list[Mark] = []
        for command in Command:
            keys, skipped = [self._marks(command)], 0
            while said := await self._run("old_marks", keys, seconds, skipped, MARKS_AT_ONCE):
                found += [Mark(command, *each.split()) for each in said]
                skipped += len(said)
        return found

    async def marks_of(self, pk: str, product_id: str) -> dict[Mark, float]:
        marks = [Mark(command, pk, product_id) for command in Command]
        ages = {
            mark: await self._run("mark_age", [self._marks(mark.command)], _said(mark))
            for mark in marks
        }
        return {mark: float(age) for mark, age in ages.items() if age is not None}

    async def count_marks(self) -> int:
        async with pipeline(self._client) as pipe:
            for command in Command:
                pipe.zcard(self._marks(command))
            return sum(await pipe.execute())

    async def create(self, order: Order, seconds: float) -> OrderStatus:
        record = OrderRecord(
            pk=order.pk,
            status=order.status,
            product_id=order.product_id,
            quantity=order.quantity,
            user_id=order.user_id or "",
        )
        key = OrderRecord.key_of(order.pk)
        return OrderStatus(await self._run("create_order", [key], seconds, *record.flat()))

    async def place(self, pk: str, reservation: Reservation) -> Order | None:
        name = "product_name", reservation.product_name
        price = "unit_price_cents", reservation.unit_price_cents
        answer = await self._run("place_order", [OrderRecord.key_of(pk)], *name, *price)
        order = OrderRecord.from_flat(answer).order() if answer else None
        return order if order and order.status in SEEN else None

    async def fail(self, pk: str) -> OrderStatus:
        move = "PENDING FAILED NONE", OrderStatus.FAILED.value, DAY_SECONDS
        answer = await self._run("move_order", [OrderRecord.key_of(pk)], *move, "pk", pk)
        return OrderRecord.from_flat(answer).status

    async def move(self, pk: str, status: OrderStatus) -> Order:
        answer = await self._run("move_order", [OrderRecord.key_of(pk)], "PLACED", status.value, 0)
        return _seen(OrderRecord.from_flat(answer) if answer else None)

    async def list_order(self, order: Order) -> None:
        lists = {self._list(None), self._list(order.user_id)}
        await asyncio.gather(*(self._client.zadd(key, {order.pk: 0}) for key in lists))

    async def get(self, pk: str, user_id: str | None = None) -> Order:
        [record] = await OrderRecord.fetch([pk])
        order = _seen(record)
        if user_id not in (None, order.user_id):
            raise OrderNotFound
        return order

    async def record(self, pk: str) -> Order | None:
        [record] = await OrderRecord.fetch([pk])
        return record.order() if record else None

    async def list_page(self, user_id: str | None, after: str | None, limit: int) -> Page[Order]:
        pks = await self._list_above(self._list(user_id), after, limit + 1)
        records = await OrderRecord.fetch(pks[:limit])
        orders = [record.order() for record in records if record and record.status in SEEN]
        return Page(orders, pks[limit - 1] if len(pks) > limit else None)

    async def claim(
        self, key: str, request: str, owner: str, order_pk: str, seconds: float
    ) -> Claim:
        answer = await self._run(
            "claim_key", [self._key(key)], request, owner, order_pk, seconds, DAY_SECONDS
        )
        match answer:
            case ["mine", bound_pk]:
                return Claim(bound_pk, is_mine=True)
            case ["held", bound_pk, seconds_left]:
                return Claim(bound_pk, is_mine=False, seconds_left=float(seconds_left))
        raise IdempotencyKeyReused

    async def rebind(self, key: str, owner: str, order_pk: str) -> bool:
        return bool(await self._run("rebind_key", [self._key(key)], owner, order_pk))

    async def end_claim(self, key: str, owner: str, *, forget: bool) -> None:
        await self._run("end_claim", [self._key(key)], owner, int(forget))

    def _marks(self, command: Command) -> str:
        return f"{self._prefix}:orders-{command.value}"

    def _list(self, user_id: str | None) -> str:
        return f"{self._prefix}:orders:{user_id}" if user_id else f"{self._prefix}:orders"

    def _key(self, key: str) -> str:
        return f"{self._prefix}:idempotency-key:{key}"


def _said(mark: Mark) -> str:
    return f"{mark.pk} {mark.product_id}"


def _seen(record: OrderRecord | None) -> Order:
    if record is None or record.status not in SEEN:
        raise OrderNotFound
    return record.order()

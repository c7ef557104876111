"""Products on Redis: a record with its figures, reservations in its slot, a list and an index."""

from collections.abc import Sequence

from redis_clients import ShopRedis, pipeline
from redis_db import Record, RedisStore
from shopsphere import search_index
from shopsphere.errors import (
    IdempotencyKeyReused,
    InsufficientQuantity,
    ProductNotFound,
    ReservationConflict,
    ReservationRefused,
    ReservationReleased,
    ReservationShipped,
    StockLimit,
)
from shopsphere.models import MAX_ON_HAND, Page, Product, Reservation, Stock, new_pk
from shopsphere.stores import DAY_SECONDS, REFUSED_SECONDS

COMMAND_SECONDS = 60
"""How long a change that came with no key is remembered: longer than the client repeats one."""

BUCKET = 100
"""Entries that fill a bucket of the search index: below the 128 that Redis keeps packed."""

SHOWN = ("name", "price_cents", "available", "deleted")
"""The fields of a record that make a product."""


class ProductRecord(Record, index=True):
    """`revision` names the index entries of its present name; `deleted` is set once deleted."""

    name: str
    revision: str
    price_cents: int
    received: int
    available: int
    reserved: int = 0
    shipped: int = 0
    deleted: str = ""

    class Meta:
        model_key_prefix = "product"

    def product(self) -> Product:
        return Product(str(self.pk), self.name, self.price_cents, self.available)


class RedisProductStore(RedisStore):
    """`ProductStore` on Redis."""

    def __init__(self, client: ShopRedis, prefix: str) -> None:
        super().__init__(client, prefix)
        ProductRecord.use(client, prefix)
        self._pks = f"{prefix}:products"
        self._index = f"{prefix}:{{product-names}}"

    async def add(self, product: Product) -> None:
        """List and index come first: readers skip what is not there yet."""
        record = ProductRecord(
            pk=product.pk,
            name=product.name,
            revision=search_index.new_revision(),
            price_cents=product.price_cents,
            received=product.quantity,
            available=product.quantity,
        )
        await self._client.zadd(self._pks, {product.pk: 0})
        await self._enter(product.name, product.pk, record.revision)
        await self._run("create_record", [self._key(product.pk)], "pk", *record.flat())

    async def get(self, pk: str) -> Product:
        """The read that is asked most: it fetches just what a product shows."""
        name, price_cents, available, deleted = await self._client.hmget(self._key(pk), SHOWN)
        if name is None or price_cents is None or available is None or deleted:
            raise ProductNotFound
        return Product(pk, name, int(price_cents), int(available))

    async def list_page(self, after: str | None, limit: int) -> Page[Product]:
        found: list[Product] = []
        while True:
            pks = await self._list_above(self._pks, after, limit + 1)
            records = await ProductRecord.fetch(pks)
            found += [record.product() for record in records if record and not record.deleted]
            if len(found) > limit:
                return Page(found[:limit], found[limit - 1].pk)
            if len(pks) <= limit:
                return Page(found, None)
            after = pks[-1]

    async def search_page(self, text: str, after: str | None, limit: int) -> Page[Product]:
        folded = search_index.fold(text)
        prefix = search_index.prefix(folded)
        low = b"[" + (search_index.from_cursor(after, folded) if after else prefix).encode()
        high = b"(" + prefix.encode() + b"\xff"
        found: list[tuple[str, Product]] = []
        while True:
            entries: list[str] = await self._run(
                "find_entries", [self._index], low, high, limit + 1
            )
            found += await self._matches(entries, folded)
            if len(found) > limit:
                suffix, last = found[limit - 1]
                page = [product for _, product in found[:limit]]
                return Page(page, search_index.to_cursor(suffix, last.pk))
            if len(entries) <= limit:
                return Page([product for _, product in found], None)
            low = b"(" + entries[-1].encode()

    async def _matches(self, entries: Sequence[str], folded: str) -> list[tuple[str, Product]]:
        """Return suffix and product of each entry that counts: up to date, and a first match."""
        parts = [search_index.split(entry) for entry in entries]
        records = await ProductRecord.fetch([pk for _, pk, _ in parts])
        return [
            (suffix, record.product())
            for (suffix, _, revision), record in zip(parts, records, strict=True)
            if record
            and not record.deleted
            and record.revision == revision
            and search_index.is_first_match(search_index.fold(record.name), folded, suffix)
        ]

    async def update(self, pk: str, name: str | None, price_cents: int | None) -> Product:
        """New index entries come before the new name, old ones go after it: it is never hidden."""
        revision = search_index.new_revision()
        if name is not None:
            await self._enter(name, pk, revision)
        price = "" if price_cents is None else price_cents
        keys = [self._key(pk), f"{self._prefix}:update:{{{pk}}}:{revision}"]
        answer = await self._run(
            "update_product", keys, revision, name or "", price, COMMAND_SECONDS
        )
        if not answer:
            if name is not None:
                await self._leave(name, pk, revision)
            raise ProductNotFound
        old_name, old_revision, fields = answer
        if name is not None:
            await self._leave(old_name, pk, old_revision)
        return ProductRecord.from_flat(fields).product()

    async def change_stock(
        self, pk: str, change: int, key: str | None = None
    ) -> tuple[Product, bool]:
        command = new_pk()
        keys = [self._key(pk), f"{self._prefix}:stock-change:{{{pk}}}:{key or command}"]
        seconds = DAY_SECONDS if key else COMMAND_SECONDS
        answer = await self._run(
            "change_stock", keys, change, MAX_ON_HAND, f"{change} {command}", seconds
        )
        match answer:
            case ["done" | "before" as outcome, fields]:
                return ProductRecord.from_flat(fields).product(), outcome == "before"
            case ["reused"]:
                raise IdempotencyKeyReused
            case ["insufficient", available]:
                raise InsufficientQuantity(available)
            case ["limit"]:
                raise StockLimit
        raise ProductNotFound

    async def delete(self, pk: str) -> None:
        answer = await self._run("delete_product", [self._key(pk)], new_pk())
        if not answer:
            raise ProductNotFound
        name, revision = answer
        await self._client.zrem(self._pks, pk)
        await self._leave(name, pk, revision)

    async def stock(self, pk: str) -> Stock:
        record = await self._any_record(pk)
        return Stock(record.received, record.available, record.reserved, record.shipped)

    async def reservations_page(self, pk: str, after: str | None, limit: int) -> Page[Reservation]:
        await self._any_record(pk)
        live = f"{self._prefix}:reservations:{{{pk}}}"
        found: list[Reservation] = []
        while True:
            orders = await self._list_above(live, after, limit + 1)
            found += await self._reservations(pk, orders)
            if len(found) > limit:
                return Page(found[:limit], found[limit - 1].order_id)
            if len(orders) <= limit:
                return Page(found, None)
            after = orders[-1]

    async def _reservations(self, pk: str, order_pks: Sequence[str]) -> list[Reservation]:
        """Return the reservations of these orders, leaving out what is not live any more."""
        async with pipeline(self._client) as pipe:
            for order_pk in order_pks:
                pipe.hmget(
                    self._reservation_keys(pk, order_pk)[1],
                    ["state", "quantity", "price_cents", "name"],
                )
            answers = await pipe.execute()
        return [
            Reservation(pk, order_pk, int(quantity), int(price_cents), name)
            for order_pk, (state, quantity, price_cents, name) in zip(
                order_pks, answers, strict=True
            )
            if state == "held"
        ]

    async def reserve(self, pk: str, order_pk: str, quantity: int) -> tuple[Reservation, bool]:
        answer = await self._run(
            "reserve", self._reservation_keys(pk, order_pk), order_pk, quantity, REFUSED_SECONDS
        )
        match answer:
            case ["taken" | "same" as outcome, price_cents, name]:
                reservation = Reservation(pk, order_pk, quantity, int(price_cents), name)
                return reservation, outcome == "taken"
            case ["refused", available]:
                raise ReservationRefused(available)
            case ["released"]:
                raise ReservationReleased
            case ["conflict"]:
                raise ReservationConflict
        raise ProductNotFound

    async def release(self, pk: str, order_pk: str) -> None:
        keys = self._reservation_keys(pk, order_pk)
        if await self._run("release", keys, order_pk, DAY_SECONDS) == "shipped":
            raise ReservationShipped

    async def ship(self, pk: str, order_pk: str) -> None:
        keys = self._reservation_keys(pk, order_pk)
        if await self._run("ship", keys, order_pk, DAY_SECONDS) == "released":
            raise ReservationReleased

    async def _any_record(self, pk: str) -> ProductRecord:
        [record] = await ProductRecord.fetch([pk])
        if record is None:
            raise ProductNotFound
        return record

    async def _enter(self, name: str, pk: str, revision: str) -> None:
        """Add the entries of a name to the index."""
        entries = search_index.entries(name, pk, revision)
        await self._run("add_entries", [self._index], BUCKET, *entries)

    async def _leave(self, name: str, pk: str, revision: str) -> None:
        """Remove the entries of a name from the index."""
        entries = search_index.entries(name, pk, revision)
        await self._run("remove_entries", [self._index], *entries)

    def _key(self, pk: str) -> str:
        return ProductRecord.key_of(pk)

    def _reservation_keys(self, pk: str, order_pk: str) -> list[str]:
        """Return product, reservation and live reservations: three keys of one slot."""
        return [
            self._key(pk),
            f"{self._prefix}:reservation:{{{pk}}}:{order_pk}",
            f"{self._prefix}:reservations:{{{pk}}}",
        ]

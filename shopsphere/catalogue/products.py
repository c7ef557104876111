"""Products: their list, search index, stock and reservations."""

from functools import partial

from shopsphere.catalogue import search_index
from shopsphere.domain import idempotency as keys
from shopsphere.domain import stock
from shopsphere.domain.errors import InvalidRequest, ProductNotFound
from shopsphere.domain.pks import is_pk, new_pk
from shopsphere.domain.records import Applied, Hold, KeyRecord, ProductRecord, ProductState
from shopsphere.domain.values import Page, Product, Reservation, Stock
from shopsphere.lists import page_of
from shopsphere.records import EVERYTHING, Listing, Records, Span

PRODUCTS = Listing("products")


class Products:
    """The catalogue and the stock.

    Every change of stock is checked and made in one step, so that
    `received = available + reserved + shipped` always holds and nothing drops below zero.
    """

    def __init__(self, records: Records) -> None:
        self._records = records

    async def create(
        self, name: str, price_cents: int, quantity: int, key: str | None = None
    ) -> tuple[Product, bool]:
        """Put a new product on sale. Listing it comes last, so every listed product can be read.

        Return it, and whether this is a repeat: within a day, a key creates only one product. Raise
        ProductNotFound if that was deleted, IdempotencyKeyReused for a different product.
        """
        pk = made = new_pk()
        if key is not None:
            bind = partial(keys.bind, request=keys.digest_of(name, price_cents, quantity), pk=made)
            pk = (await self._records.change(bind, KeyRecord(pk=key))).pk
        [record] = await self._read([pk])
        if record.state is ProductState.NONE:
            await self._records.add_names(search_index.entries(name, pk, record.revision))
        rule = partial(stock.create, name=name, price_cents=price_cents, quantity=quantity)
        product = await self._records.change(rule, ProductRecord(pk=pk))
        await self._records.enter(pk, [PRODUCTS])
        return product, pk != made

    async def get(self, pk: str) -> Product:
        """Return a product; raise ProductNotFound if it does not exist or was deleted."""
        [record] = await self._records.read(ProductRecord(pk=pk))
        if record.state is not ProductState.ON_SALE:
            raise ProductNotFound
        return record.product()

    async def page(self, after: str | None, limit: int, span: Span = EVERYTHING) -> Page[Product]:
        """Return up to `limit` products, in the order in which they became visible.

        There may be fewer, even before the end, while products are being deleted. `after` is a
        cursor or the pk of a listed product; otherwise raise InvalidRequest.
        """
        page = await page_of(self._records, PRODUCTS, span, after, limit, ProductRecord)
        found: list[Product] = []
        for record in page.items:
            if record.state is ProductState.ON_SALE:
                found.append(record.product())
            else:
                await self._records.leave(PRODUCTS, record.pk)
        return page.showing(found)

    async def search_page(self, text: str, after: str | None, limit: int) -> Page[Product]:
        """Return up to `limit` products whose folded name contains the folded `text`.

        They are sorted by the folded name from the first match onward, then by pk. `after` is a
        cursor of the same search; raise InvalidRequest if it cannot be, or if the folded text is
        empty. A product renamed between pages can appear twice, or not at all.
        """
        folded = search_index.fold(text)
        if not folded:
            raise InvalidRequest(("name", "must contain something to search for"))
        prefix = search_index.prefix(folded)
        start = search_index.from_cursor(after, folded) if after else prefix
        found: list[Product] = []
        cursor: str | None = None
        while True:
            names = await self._records.names(start, prefix, limit + 1)
            is_last = len(names) <= limit
            records = await self._read(list(map(search_index.pk_of, names)))
            for name, record in zip(names, records, strict=True):
                match = search_index.first_match(record.name, record.pk, record.revision, folded)
                # A product renamed since the names were read has only its old entry among them.
                is_new = start <= match and (is_last or match <= names[-1]) and match not in names
                is_shown = name == match or (is_new and record.product() not in found)
                if not match or not is_shown or record.state is not ProductState.ON_SALE:
                    continue
                if len(found) == limit:
                    return Page(found, cursor, is_last=False)
                found.append(record.product())
                cursor = search_index.to_cursor(name)
            if is_last:
                return Page(found, cursor, is_last)
            start = f"{names[-1]}\0"

    async def update(self, pk: str, name: str | None, price_cents: int | None) -> Product:
        """Change what is not None, in one step; raise ProductNotFound.

        New names are indexed before the change and old ones removed after it, so a search never
        misses the product.
        """
        revision = search_index.new_revision()
        new_names = set() if name is None else search_index.entries(name, pk, revision)
        await self._records.add_names(new_names)
        rule = partial(stock.update, name=name, price_cents=price_cents)
        records = ProductRecord(pk=pk), Applied(pk=f"{pk}:{revision}")
        try:
            product, (old_name, old_revision) = await self._records.change(rule, *records)
        except ProductNotFound:
            await self._records.remove_names(new_names)
            raise
        if name is not None:
            await self._records.remove_names(search_index.entries(old_name, pk, old_revision))
        return product

    async def change_stock(
        self, pk: str, change: int, key: str | None = None
    ) -> tuple[Product, bool]:
        """Add `change` (which may be negative) to received and available, in one step.

        Return the updated product, and whether this is a repeat: within a day, a key takes effect
        once. Raise ProductNotFound, StockTooLow below zero, StockLimit above MAX_ON_HAND units on
        hand, IdempotencyKeyReused if the key was used for a different change.
        """
        command = new_pk()
        rule = partial(stock.change_stock, change=change, command=command)
        records = ProductRecord(pk=pk), Applied(pk=f"{pk}:{key or command}")
        return await self._records.change(rule, *records)

    async def delete(self, pk: str) -> None:
        """Take a product off sale; its stock and holds stay.

        Raise ProductNotFound; if it was already deleted, first finish any interrupted cleanup.
        """
        rule = partial(stock.delete, command=new_pk())
        (name, revision), is_mine = await self._records.change(rule, ProductRecord(pk=pk))
        await self._records.leave(PRODUCTS, pk)
        await self._records.remove_names(search_index.entries(name, pk, revision))
        if not is_mine:
            raise ProductNotFound

    async def stock(self, pk: str) -> Stock:
        """Return the stock breakdown, even of a deleted product; raise ProductNotFound."""
        [record] = await self._read([pk])
        if record.state is ProductState.NONE:
            raise ProductNotFound
        return record.stock()

    async def reservations_page(self, pk: str, after: str | None, limit: int) -> Page[Reservation]:
        """Return the active reservations (neither released nor shipped), sorted by order pk.

        There may be fewer than `limit`, even before the end, while orders end. `after` is the pk of
        an order. Raise ProductNotFound; a deleted product still has its reservations.
        """
        if after is not None and not is_pk(after):
            raise InvalidRequest(("after", "must be the pk of an order"))
        await self.stock(pk)
        holds = await self._records.live(Hold, pk, after or "", limit + 1)
        is_last = len(holds) <= limit
        holds = holds[:limit]
        found = [hold.reservation() for hold in holds if hold.is_listed]
        return Page(found, holds[-1].reservation().order_pk if holds else None, is_last)

    async def reserve(
        self, pk: str, order_pk: str, quantity: int, unit_price_cents: int | None = None
    ) -> tuple[Reservation, bool]:
        """Hold `quantity` units for an order: checked and taken in one step, once per order.

        Return the reservation, and whether this call made it; a repeat returns the same one. Raise
        ProductNotFound; PriceChanged or ReservationRefused, which are final for this order;
        ReservationReleased after a release; ReservationConflict if another quantity is held.
        """
        rule = partial(stock.reserve, quantity=quantity, unit_price_cents=unit_price_cents)
        return await self._records.change(rule, *self._hold(pk, order_pk))

    async def release(self, pk: str, order_pk: str) -> None:
        """Release the units, once; this order cannot reserve them again for ten minutes.

        This is remembered for any pk, even if no such product exists. Raise ReservationShipped.
        """
        await self._records.change(stock.release, *self._hold(pk, order_pk))

    async def ship(self, pk: str, order_pk: str) -> None:
        """Count held units as shipped, once; do nothing if the order is unknown here.

        Raise ReservationReleased if they were released, or never reserved for lack of stock.
        """
        await self._records.change(stock.ship, *self._hold(pk, order_pk))

    def _hold(self, pk: str, order_pk: str) -> tuple[ProductRecord, Hold]:
        return ProductRecord(pk=pk), Hold(pk=f"{pk}:{order_pk}")

    async def _read(self, pks: list[str]) -> list[ProductRecord]:
        return await self._records.read(*(ProductRecord(pk=pk) for pk in pks))

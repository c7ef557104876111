"""Does the stock add up? Reads the product service and the order service over HTTP, and compares.

Both are read in pages into a temporary file, so a shop of any size needs little memory. Orders come
and go while they are read, so what is off counts only when a second look finds it again.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, NoReturn
from urllib.parse import parse_qs, urlsplit

import requests
from pydantic import BaseModel
from tqdm import tqdm

from shopsphere.records import StorageName
from shopsphere.sessions import RETRIES, session
from shopsphere.settings import Settings

PAGE = 1000
TIMEOUT_SECONDS = 30
UNKNOWN = {"received": 0, "available": 0, "reserved": 0, "shipped": 0}
TRIES = 5
"""How often a product is read at one look until its figures and its reservations fit together."""

TABLES = """
CREATE TABLE products (look, pk, received, available, reserved, shipped, PRIMARY KEY (look, pk))
    WITHOUT ROWID;
CREATE TABLE orders (look, product_id, pk, placed DEFAULT 0, shipped DEFAULT 0, held DEFAULT 0,
    PRIMARY KEY (look, product_id, pk)) WITHOUT ROWID;
CREATE TABLE suspects (pk PRIMARY KEY) WITHOUT ROWID;
"""

SUMS = """
SELECT p.pk, received, available, reserved, p.shipped,
       ifnull(sum(held), 0), ifnull(sum(o.shipped), 0), ifnull(sum(held != placed), 0)
FROM products p LEFT JOIN orders o ON o.look = p.look AND o.product_id = p.pk
WHERE p.look = ? AND p.pk BETWEEN ? AND ? GROUP BY p.pk
"""

STRAYS = """
SELECT pk, placed, held FROM orders JOIN orders AS later USING (product_id, pk, placed, held)
WHERE orders.look = 1 AND later.look = 2 AND product_id = ? AND placed != held ORDER BY pk
"""


class AuditImpossible(Exception):
    """The services cannot be compared; the message says why, and what a person can do."""


class Health(BaseModel):
    """What a service says of itself."""

    service: str
    storage: StorageName
    fallback: bool = False


Json = dict[str, Any]
"""An object that a service responded, with its fields as OpenAPI names them."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is off with a product, and the order to settle where that puts it right."""

    product_id: str
    text: str
    order_pk: str | None = None


class _Sums(NamedTuple):
    """What the product service says of a product, and what it and the orders add up to."""

    pk: str
    received: int
    available: int
    reserved: int
    shipped: int
    held: int
    sent: int
    strays: int

    @property
    def lost(self) -> int:
        return self.received - self.available - self.reserved - self.shipped

    @property
    def is_below_zero(self) -> bool:
        return min(self.available, self.reserved, self.shipped) < 0

    @property
    def is_off(self) -> bool:
        adds_up = self.reserved == self.held and self.shipped == self.sent
        return bool(self.lost or self.is_below_zero or not adds_up or self.strays)


class Shop:
    """The services that an audit asks, as whoever may see everything."""

    def __init__(self, settings: Settings) -> None:
        self.products_url = settings.product_service_url
        self.orders_url = settings.order_service_url
        self._settings = settings
        self._may_sign_in = bool(settings.admin_email)
        # Where nothing listens (connect), a person is told at once.
        self._http = session(RETRIES.new(total=4, connect=0, backoff_factor=0.2))

    def close(self) -> None:
        """Let go of all connections."""
        self._http.close()

    def _sign_in(self) -> None:
        """Become the administrator of the settings."""
        settings = self._settings
        password = settings.admin_password.get_secret_value()
        body = {"email": settings.admin_email, "password": password}
        answer = self._ask("POST", f"{settings.user_service_url}/login", json=body)
        self._http.headers["Authorization"] = f"Bearer {_json(answer)['access_token']}"

    def require_one_storage(self) -> None:
        """Raise AuditImpossible where an order and its stock are on different storages."""
        products, orders = (
            _json(self._ask("GET", f"{url}/")).get("storage")
            for url in (self.products_url, self.orders_url)
        )
        if products != orders:
            raise AuditImpossible(
                f"the product service is on {products}, the order service on {orders}: there is "
                "nothing to compare. Restart both on one storage."
            )

    def pages(self, url: str) -> Iterator[list[Json]]:
        """Yield a list in pages; nothing where it does not exist."""
        after: str | None = None
        while True:
            answer = self._ask("GET", url, params={"limit": PAGE, "after": after})
            if answer.status_code == 404:
                return
            yield _json(answer)
            if "next" not in answer.links:
                return
            [after] = parse_qs(urlsplit(answer.links["next"]["url"]).query)["after"]

    def stock(self, product_id: str) -> Json:
        """Return the figures of a product, all zero where it is not known at all."""
        answer = self._ask("GET", f"{self.products_url}/products/{product_id}/stock")
        return UNKNOWN if answer.status_code == 404 else _json(answer)

    def settle(self, order_pk: str, product_id: str) -> str:
        """Have the order service settle an order; return what it says became of it."""
        url = f"{self.orders_url}/orders/{order_pk}/settle"
        answer = self._ask("POST", url, json={"product_id": product_id})
        return str(_json(answer)["outcome"])

    def _ask(self, method: str, url: str, **options: object) -> requests.Response:
        """Return a success or 404, signed in if asked to; raise AuditImpossible otherwise."""
        try:
            answer = self._http.request(method, url, timeout=TIMEOUT_SECONDS, **options)  # type: ignore[arg-type]  # a dict of anything
        except requests.RequestException as error:
            raise AuditImpossible(f"{url} does not answer ({type(error).__name__}).") from error
        if answer.ok or answer.status_code == 404:
            return answer
        if answer.status_code == 401 and self._may_sign_in:
            self._may_sign_in = False
            self._sign_in()
            return self._ask(method, url, **options)
        hint = ""
        if answer.status_code in (401, 403):
            hint = " ADMIN_EMAIL and ADMIN_PASSWORD have to be set here as they are for the shop."
        raise AuditImpossible(f"{url} answers {answer.status_code}: {_said(answer)}{hint}")


def _json(answer: requests.Response) -> Any:
    try:
        return answer.json()
    except ValueError as error:
        raise AuditImpossible(f"what answers at {answer.url} is no service of ours") from error


def _said(answer: requests.Response) -> str:
    """Return the sentence of an error, or what is there in the place of one."""
    try:
        return str(answer.json()["detail"])
    except (ValueError, LookupError, TypeError):
        return answer.text[:200]


class _Notes(sqlite3.Connection):
    """What each look saw, in a file without a name that goes away when it is closed."""

    def __init__(self) -> None:
        super().__init__("")
        self.executescript(TABLES)

    def add_orders(self, look: int, orders: Iterable[Json]) -> None:
        """Note orders, at the second look only those of suspects."""
        self.executemany(
            "INSERT OR REPLACE INTO orders (look, product_id, pk, placed, shipped) "
            "SELECT :look, :product_id, :pk, "
            ":quantity * (:status = 'PLACED'), :quantity * (:status = 'SHIPPED') "
            "WHERE :look = 1 OR :product_id IN suspects",
            ({"look": look, **order} for order in orders),
        )

    def add_products(self, products: Iterable[Json]) -> None:
        """Note products that the first look is to read."""
        self.executemany(
            "INSERT OR IGNORE INTO products (look, pk) VALUES (1, ?)",
            ((product["pk"],) for product in products),
        )

    def add_products_of_orders(self) -> None:
        """The same of those that orders name: they may be deleted by now."""
        self.execute(
            "INSERT OR IGNORE INTO products (look, pk) SELECT DISTINCT 1, product_id FROM orders"
        )

    def suspect(self) -> int:
        """Have the second look read what is off at the first; return how many products that is."""
        pks = ((sums.pk,) for sums in self.sums(1) if sums.is_off)
        self.executemany("INSERT INTO suspects VALUES (?)", pks)
        self.execute("INSERT INTO products (look, pk) SELECT 2, pk FROM suspects")
        return self.count("suspects")

    def count(self, table: Literal["orders", "products", "suspects"]) -> int:
        [(count,)] = self.execute(f"SELECT count(*) FROM {table}")  # noqa: S608  # a literal
        return int(count)

    def products(self, look: int) -> Iterator[str]:
        """Yield the pk of each product of this look."""
        pk = ""
        query = "SELECT pk FROM products WHERE look = ? AND pk > ? ORDER BY pk LIMIT 1"
        while row := self.execute(query, (look, pk)).fetchone():
            pk = str(row[0])
            yield pk

    def set_stock(self, look: int, pk: str, stock: Json) -> None:
        """Note the figures of a product, and forget what is noted of its reservations."""
        self.execute(
            "UPDATE products SET received = :received, available = :available, "
            "reserved = :reserved, shipped = :shipped WHERE look = :look AND pk = :pk",
            {**stock, "look": look, "pk": pk},
        )
        self.execute("UPDATE orders SET held = 0 WHERE look = ? AND product_id = ?", (look, pk))

    def add_reservations(self, look: int, pk: str, reservations: Iterable[Json]) -> None:
        self.executemany(
            "INSERT INTO orders (look, product_id, pk, held) VALUES (?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET held = excluded.held",
            ((look, pk, each["order_id"], each["quantity"]) for each in reservations),
        )

    def sums(self, look: int, pk: str | None = None) -> Iterator[_Sums]:
        """Yield the sums of each product of this look, or of one."""
        yield from map(_Sums._make, self.execute(SUMS, (look, pk or "", pk or "~")))

    def strays(self, pk: str) -> list[tuple[str, int, int]]:
        """Return order, units placed and units held, where they differed alike at both looks."""
        return self.execute(STRAYS, (pk,)).fetchall()


class Audit:
    """One audit of a shop. `products` and `orders` tell how many were compared.

    `wait` is called between the two looks: for so long that what is under way ends or is settled.
    """

    def __init__(self, shop: Shop, wait: Callable[[], object]) -> None:
        self._shop = shop
        self._wait = wait
        self.products = 0
        self.orders = 0

    def findings(self) -> Iterator[Finding]:
        """Yield what is off, product by product; nothing for a shop that is exact.

        A deleted product is read when an order names it. Raise AuditImpossible.
        """
        self._shop.require_one_storage()
        with closing(_Notes()) as notes:
            self._read_orders(notes, 1)
            self.orders = notes.count("orders")
            for products in self._shop.pages(f"{self._shop.products_url}/products"):
                notes.add_products(products)
            notes.add_products_of_orders()
            self.products = notes.count("products")
            self._read_products(notes, 1, self.products)
            suspects = notes.suspect()
            if suspects:
                self._wait()
                self._read_orders(notes, 2)
                self._read_products(notes, 2, suspects)
                for second in notes.sums(2):
                    [first] = notes.sums(1, second.pk)
                    yield from _found_twice(first, second, notes.strays(second.pk))

    def _read_orders(self, notes: _Notes, look: int) -> None:
        with _progress("orders") as bar:
            for orders in self._shop.pages(f"{self._shop.orders_url}/orders"):
                notes.add_orders(look, orders)
                bar.update(len(orders))

    def _read_products(self, notes: _Notes, look: int, count: int) -> None:
        with _progress("products", count) as bar:
            for pk in notes.products(look):
                self._read_product(notes, look, pk)
                bar.update()

    def _read_product(self, notes: _Notes, look: int, pk: str) -> None:
        """Read the figures and the reservations, again while they change in between."""
        url = f"{self._shop.products_url}/products/{pk}/reservations"
        for _ in range(TRIES):
            stock = self._shop.stock(pk)
            notes.set_stock(look, pk, stock)
            for reservations in self._shop.pages(url):
                notes.add_reservations(look, pk, reservations)
            [sums] = notes.sums(look, pk)
            if sums.reserved == sums.held:
                return


def _progress(what: str, total: int | None = None) -> "tqdm[NoReturn]":
    """Return a progress bar, which shows on a terminal only."""
    return tqdm(total=total, unit=f" {what}", leave=False, disable=None)


def _found_twice(
    first: _Sums, second: _Sums, strays: Sequence[tuple[str, int, int]]
) -> Iterator[Finding]:
    """Yield what is off with a product at both looks."""
    pk = second.pk
    available, reserved, shipped = second.available, second.reserved, second.shipped
    if first.lost and second.lost:
        figures = f"available {available} + reserved {reserved} + shipped {shipped}"
        yield Finding(pk, f"received is {second.received}, {_by(second.lost)} for {figures}")
    if first.is_below_zero and second.is_below_zero:
        text = f"available is {available}, reserved {reserved}, shipped {shipped}: one is below 0"
        yield Finding(pk, text)
    too_many = sum(held - placed for _, placed, held in strays)
    if first.reserved != first.held:
        too_many += second.reserved - second.held
    if too_many:
        yield Finding(pk, f"reserved is {reserved}, {_by(too_many)} for its PLACED orders")
    for order_pk, placed, held in strays:
        yield Finding(pk, _stray(order_pk, placed, held), None if placed else order_pk)
    # An order is SHIPPED first, and counted after that. So of two looks the orders of the second
    # are never behind the figure of the first, nor the figure behind the orders of the first.
    too_many = max(first.shipped - second.sent, 0) or min(second.shipped - first.sent, 0)
    if too_many:
        yield Finding(pk, f"shipped is {shipped}, {_by(too_many)} for its SHIPPED orders")


def _by(too_many: int) -> str:
    return f"{abs(too_many)} too {'many' if too_many > 0 else 'few'}"


def _stray(order_pk: str, placed: int, held: int) -> str:
    if not placed:
        return f"the reservation of order {order_pk} ({held}) belongs to no PLACED order"
    if not held:
        return f"the PLACED order {order_pk} ({placed}) has no reservation: cancel it"
    return f"the PLACED order {order_pk} is of {placed}, its reservation of {held}"

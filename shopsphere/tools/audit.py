"""Does the stock add up? Reads the product service and the order service over HTTP, and compares.

Both are read in pages into a temporary file, so a shop of any size needs little memory. Orders come
and go while they are read, so what is off counts only when a second look finds it again.
"""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qs, urlsplit

import requests
from pydantic import BaseModel
from tqdm import tqdm

from shopsphere.http_sessions import RETRIES, session
from shopsphere.records import StorageName
from shopsphere.settings import Settings

PAGE = 1000
TIMEOUT_SECONDS = 30
UNKNOWN = {"received": 0, "available": 0, "reserved": 0, "shipped": 0}
BAR: dict[str, Any] = {"leave": False, "disable": None}
"""A progress bar goes away at its end, and shows on a terminal only."""
TRIES = 5
"""How often a product is read at one look until its stock and its reservations fit together."""

TABLES = """
CREATE TABLE products (pk PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE stocks (pk PRIMARY KEY, received, available, reserved, shipped) WITHOUT ROWID;
CREATE TABLE orders (product_id, pk, placed DEFAULT 0, shipped DEFAULT 0, held DEFAULT 0,
    PRIMARY KEY (product_id, pk)) WITHOUT ROWID;
"""

ADD_ORDER = """
INSERT OR REPLACE INTO orders (product_id, pk, placed, shipped) VALUES
(:product_id, :pk, :quantity * (:status = 'PLACED'), :quantity * (:status = 'SHIPPED'))
"""

ADD_RESERVATION = """
INSERT INTO orders (product_id, pk, held) VALUES (:product_id, :order_id, :quantity)
ON CONFLICT DO UPDATE SET held = excluded.held
"""

SUMS = """
SELECT stocks.pk, received, available, reserved, stocks.shipped,
       ifnull(sum(held), 0), ifnull(sum(orders.shipped), 0), ifnull(sum(held != placed), 0)
FROM stocks LEFT JOIN orders ON product_id = stocks.pk
WHERE stocks.pk BETWEEN ? AND ? GROUP BY stocks.pk
"""

STRAYS = "SELECT pk, placed, held FROM orders WHERE product_id = ? AND placed != held"


class AuditImpossible(Exception):
    """The services cannot be compared; the message says why, and what a person can do."""


class Health(BaseModel):
    """What a service says of itself."""

    service: str
    storage: StorageName
    fallback: bool = False


Json = dict[str, Any]
"""An object that a service responded, with its fields as OpenAPI names them."""
Stray = tuple[str, int, int]
"""An order, how many units it placed, and how many are held for it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is off with a product, and the order to settle where that releases units."""

    product_id: str
    text: str
    order_pk: str | None = None
    units: int = 0


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
        self._http.headers["Authorization"] = f"Bearer {_read(answer, 'access_token')}"

    def pages(self, url: str) -> Iterator[list[Json]]:
        """Yield a list in pages; nothing where it does not exist."""
        after: str | None = None
        while True:
            answer = self._ask("GET", url, params={"limit": PAGE, "after": after})
            if answer.status_code == 404:
                return
            yield _read(answer)
            if "next" not in answer.links:
                return
            [after] = parse_qs(urlsplit(answer.links["next"]["url"]).query)["after"]

    def stock(self, product_id: str) -> Json:
        """Return the figures of a product, all zero where it is not known at all."""
        answer = self._ask("GET", f"{self.products_url}/products/{product_id}/stock")
        return UNKNOWN if answer.status_code == 404 else _read(answer)

    def settle(self, order_pk: str, product_id: str) -> str:
        """Have the order service settle an order; return what it says became of it."""
        url = f"{self.orders_url}/orders/{order_pk}/settle"
        answer = self._ask("POST", url, json={"product_id": product_id})
        return str(_read(answer, "outcome"))

    def _ask(self, method: str, url: str, **options: object) -> requests.Response:
        """Return a success or 404, signed in if asked to; raise AuditImpossible otherwise."""
        try:
            answer = self._http.request(method, url, timeout=TIMEOUT_SECONDS, **options)  # type: ignore[arg-type]  # a dict of anything
        except requests.RequestException as error:
            raise AuditImpossible(f"{url} does not respond ({type(error).__name__}).") from error
        if answer.ok or answer.status_code == 404:
            return answer
        if answer.status_code == 401 and self._may_sign_in:
            self._may_sign_in = False
            self._sign_in()
            return self._ask(method, url, **options)
        hint = ""
        if answer.status_code in (401, 403):
            hint = " Set ADMIN_EMAIL and ADMIN_PASSWORD here as they are set for the shop."
        said = f"{answer.status_code}: {_read(answer, 'detail')}"
        raise AuditImpossible(f"{url} responds with {said}{hint}")


def _read(answer: requests.Response, field: str | None = None) -> Any:
    """Return what a service responded, or a field of it."""
    try:
        return answer.json()[field] if field else answer.json()
    except (ValueError, LookupError, TypeError) as error:
        raise AuditImpossible(
            f"{answer.url} responds with {answer.status_code}, but not as a ShopSphere service does"
        ) from error


class _Look(sqlite3.Connection):
    """What one look at a shop saw, in a file without a name that goes away when it is closed."""

    def __init__(self, shop: Shop) -> None:
        super().__init__("")
        self.executescript(TABLES)
        self._shop = shop

    def read_orders(self) -> None:
        pages = self._shop.pages(f"{self._shop.orders_url}/orders")
        for orders in tqdm(pages, unit=" pages of orders", **BAR):
            self.executemany(ADD_ORDER, orders)

    def list_products(self) -> None:
        """Note every product, also those that only orders name: they may be deleted by now."""
        for products in self._shop.pages(f"{self._shop.products_url}/products"):
            self.executemany("INSERT OR IGNORE INTO products VALUES (:pk)", products)
        self.execute("INSERT OR IGNORE INTO products SELECT product_id FROM orders")

    def count(self, table: Literal["orders", "products"]) -> int:
        [(count,)] = self.execute(f"SELECT count(*) FROM {table}")  # noqa: S608  # a literal
        return int(count)

    def read_stocks(self) -> None:
        """Read stock and reservations of each product, again while they change in between."""
        products = self.execute("SELECT pk FROM products")
        for (pk,) in tqdm(products, total=self.count("products"), unit=" products", **BAR):
            for _ in range(TRIES):
                self._read_stock(pk)
                [sums] = self.sums(pk)
                if sums.reserved == sums.held:
                    break

    def _read_stock(self, pk: str) -> None:
        stock = {"pk": pk, **self._shop.stock(pk)}
        self.execute(
            "INSERT OR REPLACE INTO stocks VALUES "
            "(:pk, :received, :available, :reserved, :shipped)",
            stock,
        )
        self.execute("UPDATE orders SET held = 0 WHERE product_id = ?", (pk,))
        for page in self._shop.pages(f"{self._shop.products_url}/products/{pk}/reservations"):
            self.executemany(ADD_RESERVATION, ({"product_id": pk, **each} for each in page))

    def sums(self, pk: str | None = None) -> Iterator[_Sums]:
        """Yield the sums of each product, or of one."""
        yield from map(_Sums._make, self.execute(SUMS, (pk or "", pk or "~")))

    def strays(self, pk: str) -> set[Stray]:
        """Return order, units placed and units held, where the two differ."""
        return set(self.execute(STRAYS, (pk,)))


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
        """Yield what does not add up, product by product. Raise AuditImpossible."""
        with closing(_Look(self._shop)) as first, closing(_Look(self._shop)) as second:
            first.read_orders()
            self.orders = first.count("orders")
            first.list_products()
            self.products = first.count("products")
            first.read_stocks()
            suspects = ((sums.pk,) for sums in first.sums() if sums.is_off)
            second.executemany("INSERT INTO products VALUES (?)", suspects)
            if second.count("products"):
                self._wait()
                second.read_orders()
                second.read_stocks()
            for after in second.sums():
                [before] = first.sums(after.pk)
                strays = first.strays(after.pk) & second.strays(after.pk)
                yield from _found_twice(before, after, sorted(strays))


def _found_twice(first: _Sums, second: _Sums, strays: Sequence[Stray]) -> Iterator[Finding]:
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
        yield Finding(pk, _stray(order_pk, placed, held), None if placed else order_pk, held)
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

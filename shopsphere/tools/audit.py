"""The audit: compares the stock of the product service with the orders, over HTTP.

Both are read in pages into a temporary file, so a shop of any size needs little memory. Orders
change while they are read, so only inconsistencies that a second look confirms are reported.
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
"""Progress bars disappear when done, and are shown on terminals only."""
TRIES = 5
"""How often one look reads a product until its stock and reservations match."""

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
    """The services cannot be compared; the message says why and what to do."""


class Health(BaseModel):
    """The health that a service reports."""

    service: str
    storage: StorageName
    fallback: bool = False


Json = dict[str, Any]
"""A JSON object from a response, with the field names of OpenAPI."""
Stray = tuple[str, int, int]
"""An order's pk, the units that it ordered while PLACED, and the units held for it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """An inconsistency of a product, and the order to settle if that releases units."""

    product_pk: str
    text: str
    order_pk: str | None = None
    units: int = 0


class _Sums(NamedTuple):
    """The stock that the product service reports, and the sums of reservations and orders.

    `held` counts reserved units, `sent` those of SHIPPED orders, `strays` orders whose placed and
    held units differ.
    """

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
    """The services to audit, accessed as the administrator if they require a login."""

    def __init__(self, settings: Settings) -> None:
        self.products_url = settings.product_service_url
        self.orders_url = settings.order_service_url
        self._settings = settings
        self._may_sign_in = bool(settings.admin_email)
        # connect=0: if nothing listens, the error is reported at once.
        self._http = session(RETRIES.new(total=4, connect=0, backoff_factor=0.2))

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def _sign_in(self) -> None:
        """Log in as the administrator named in the settings."""
        settings = self._settings
        password = settings.admin_password.get_secret_value()
        body = {"email": settings.admin_email, "password": password}
        response = self._ask("POST", f"{settings.user_service_url}/login", json=body)
        self._http.headers["Authorization"] = f"Bearer {_read(response, 'access_token')}"

    def pages(self, url: str) -> Iterator[list[Json]]:
        """Yield a list in pages, or nothing if it does not exist."""
        after: str | None = None
        while True:
            response = self._ask("GET", url, params={"limit": PAGE, "after": after})
            if response.status_code == 404:
                return
            yield _read(response)
            if "next" not in response.links:
                return
            [after] = parse_qs(urlsplit(response.links["next"]["url"]).query)["after"]

    def stock(self, product_pk: str) -> Json:
        """Return the stock breakdown of a product, all zero if the product never existed."""
        response = self._ask("GET", f"{self.products_url}/products/{product_pk}/stock")
        return UNKNOWN if response.status_code == 404 else _read(response)

    def settle(self, order_pk: str, product_pk: str) -> str:
        """Settle an order through the order service; return the reported outcome."""
        url = f"{self.orders_url}/orders/{order_pk}/settle"
        response = self._ask("POST", url, json={"product_id": product_pk})
        return str(_read(response, "outcome"))

    def _ask(self, method: str, url: str, **options: object) -> requests.Response:
        """Return a success or 404, logging in if required; otherwise raise AuditImpossible."""
        try:
            response = self._http.request(method, url, timeout=TIMEOUT_SECONDS, **options)  # type: ignore[arg-type]  # a dict of anything
        except requests.RequestException as error:
            raise AuditImpossible(f"{url} does not respond ({type(error).__name__}).") from error
        if response.ok or response.status_code == 404:
            return response
        if response.status_code == 401 and self._may_sign_in:
            self._may_sign_in = False
            self._sign_in()
            return self._ask(method, url, **options)
        hint = ""
        if response.status_code in (401, 403):
            hint = " Set ADMIN_EMAIL and ADMIN_PASSWORD here as they are set for the shop."
        said = f"{response.status_code}: {_read(response, 'detail')}"
        raise AuditImpossible(f"{url} responds with {said}{hint}")


def _read(response: requests.Response, field: str | None = None) -> Any:
    """Return the JSON of a response, or one field of it; raise AuditImpossible."""
    try:
        return response.json()[field] if field else response.json()
    except (ValueError, LookupError, TypeError) as error:
        raise AuditImpossible(
            f"{response.url} responds with {response.status_code}, but not as a ShopSphere "
            "service does"
        ) from error


class _Look(sqlite3.Connection):
    """The data of one look at a shop, in an unnamed temporary file that closing deletes."""

    def __init__(self, shop: Shop) -> None:
        super().__init__("")
        self.executescript(TABLES)
        self._shop = shop

    def read_orders(self) -> None:
        pages = self._shop.pages(f"{self._shop.orders_url}/orders")
        for orders in tqdm(pages, unit=" pages of orders", **BAR):
            self.executemany(ADD_ORDER, orders)

    def list_products(self) -> None:
        """Collect every product, including possibly deleted ones that only orders name."""
        for products in self._shop.pages(f"{self._shop.products_url}/products"):
            self.executemany("INSERT OR IGNORE INTO products VALUES (:pk)", products)
        self.execute("INSERT OR IGNORE INTO products SELECT product_id FROM orders")

    def count(self, table: Literal["orders", "products"]) -> int:
        [(count,)] = self.execute(f"SELECT count(*) FROM {table}")  # noqa: S608  # a literal
        return int(count)

    def read_stocks(self) -> None:
        """Read stock and reservations of each product; retry if they change in between."""
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
        """Yield the sums of each product, or of one product."""
        yield from map(_Sums._make, self.execute(SUMS, (pk or "", pk or "~")))

    def strays(self, pk: str) -> set[Stray]:
        """Return the strays of a product: orders whose placed and held units differ."""
        return set(self.execute(STRAYS, (pk,)))


class Audit:
    """One audit of a shop. `products` and `orders` are the numbers compared.

    `wait` is called between the two looks; it must take long enough for pending commands to finish
    or be settled.
    """

    def __init__(self, shop: Shop, wait: Callable[[], object]) -> None:
        self._shop = shop
        self._wait = wait
        self.products = 0
        self.orders = 0

    def findings(self) -> Iterator[Finding]:
        """Yield the inconsistencies, product by product. Raise AuditImpossible."""
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
    """Yield the inconsistencies of a product that both looks found."""
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
    # An order becomes SHIPPED before its units count as shipped. So the second look's orders must
    # cover the first look's `shipped`, and its `shipped` must cover the first look's orders.
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

"""The audit: compares the stock of the product service with the orders, over HTTP.

Both are read in pages into a temporary file, so a shop of any size needs little memory. Orders
change while they are read, so only inconsistencies that a second look confirms are reported.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from sqlite3 import Row
from typing import Any, NamedTuple

import requests
from tqdm import tqdm
from urllib3 import Retry

from shopsphere.domain.values import Role
from shopsphere.http_sessions import reason_of, session
from shopsphere.settings import Settings
from shopsphere.tokens import Tokens

PAGE = 1000
TIMEOUT_SECONDS = 30
TOKEN_MINUTES = 24 * 60
RETRIES = Retry(
    4, connect=0, backoff_factor=0.2, status_forcelist=(502, 503, 504), raise_on_status=False
)
"""Of reads, but not where nothing listens: that is reported at once."""
BAR: dict[str, Any] = {"leave": False, "disable": None}
"""Progress bars disappear when done, and are shown on terminals only."""
TRIES = 5
"""How often one look reads a product until its stock and reservations match."""
STOCK = ("received", "available", "reserved", "shipped")

TABLES = """
CREATE TABLE products (pk PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE stocks (pk PRIMARY KEY, received, available, reserved, shipped) WITHOUT ROWID;
CREATE TABLE orders (product_id, pk, status, quantity DEFAULT 0, held DEFAULT 0,
    PRIMARY KEY (product_id, pk)) WITHOUT ROWID;
"""

ADD_ITEM = """
INSERT OR REPLACE INTO orders (product_id, pk, status, quantity)
VALUES (:product_id, :pk, :status, :quantity)
"""

ADD_STOCK = "INSERT OR REPLACE INTO stocks VALUES (:pk, :received, :available, :reserved, :shipped)"

ADD_RESERVATION = """
INSERT INTO orders (product_id, pk, held) VALUES (:product_id, :order_id, :quantity)
ON CONFLICT DO UPDATE SET held = excluded.held
"""

SUMS = """
SELECT stocks.*, ifnull(sum(held), 0) AS held,
       ifnull(sum(quantity * (status = 'SHIPPED')), 0) AS sent
FROM stocks LEFT JOIN orders ON product_id = stocks.pk WHERE stocks.pk = ?
"""
"""The stock of a product, the units in its reservations, and those of its SHIPPED orders."""
COUNTS = "SELECT (SELECT count(*) FROM products), count(DISTINCT pk) FROM orders"
STRAYS = """
SELECT ifnull(status, 'nonexistent'), pk, quantity, held FROM orders
WHERE product_id = ? AND held != quantity * (status IS 'PLACED')
"""


class ShopUnavailable(Exception):
    """A service does not respond as it should; the message says why and what to do."""


Json = dict[str, Any]
"""A JSON object from a response, with the field names of OpenAPI."""


Stray = tuple[str, str, int, int]
"""An order's state, pk and quantity of a product, and the units held for it, if that is wrong."""


class Finding(NamedTuple):
    """An inconsistency of a product, and the order to settle if that releases units."""

    product_pk: str
    text: str
    order_pk: str = ""
    units: int = 0
    state: str = ""


class Shop:
    """The services of a shop, called as an administrator where tokens are required."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._http = session(RETRIES, settings.ca_file)
        if settings.auth_required:
            token = Tokens(settings.jwt_secrets, TOKEN_MINUTES).issue("audit", Role.ADMIN)
            self._http.headers["Authorization"] = f"Bearer {token}"

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def pages(self, url: str) -> Iterator[list[Json]]:
        """Yield a list in pages, or nothing if it does not exist."""
        after: str | None = None
        while after != "":
            page, after = self.ask("GET", url, params={"limit": PAGE, "after": after})
            yield page or []

    def ask(self, method: str, url: str, **options: Json) -> tuple[Any, str]:
        """Return the JSON of a success, or None for a GET with a 404, and the cursor if another
        page follows. Raise ShopUnavailable.

        The `options` are those of `requests`.
        """
        try:
            response = self._http.request(method, url, timeout=TIMEOUT_SECONDS, **options)  # type: ignore[arg-type]  # dicts
        except requests.RequestException as error:
            raise ShopUnavailable(f"{url} does not respond ({reason_of(error)}).") from error
        what = f"{url} responds with {response.status_code}"
        try:
            found = response.json()
            if response.ok:
                return found, response.headers["X-Cursor"] if response.links else ""
            detail = found["detail"]
        except (ValueError, LookupError, TypeError) as error:
            raise ShopUnavailable(f"{what}, but not like a ShopSphere service") from error
        if response.status_code == 404 and method == "GET":
            return None, ""
        if response.status_code in (401, 403):
            detail += " Use the services' AUTH_REQUIRED and JWT_SECRET here."
        raise ShopUnavailable(f"{what}: {detail}")


class _Look(sqlite3.Connection):
    """The data of one look at a shop, in an unnamed temporary file that closing deletes."""

    def __init__(self, shop: Shop) -> None:
        super().__init__("")
        self.row_factory = Row
        self.executescript(TABLES)
        self._shop = shop
        self._products_url = f"{shop.settings.product_service_url}/products"

    def read_orders(self) -> None:
        pages = self._shop.pages(f"{self._shop.settings.order_service_url}/orders")
        for orders in tqdm(pages, unit=" pages of orders", **BAR):
            items = (order | item for order in orders for item in order["items"])
            self.executemany(ADD_ITEM, items)

    def list_products(self) -> None:
        """Collect every product, including possibly deleted ones that only orders name."""
        for products in self._shop.pages(self._products_url):
            self.executemany("INSERT OR IGNORE INTO products VALUES (:pk)", products)
        self.execute("INSERT OR IGNORE INTO products SELECT product_id FROM orders")

    def products(self) -> Iterator[str]:
        """Yield the pk of each product of this look."""
        yield from (pk for (pk,) in self.execute("SELECT pk FROM products"))

    def read_stocks(self) -> None:
        """Read stock and reservations of each product; retry if they change in between."""
        for pk in tqdm(self.products(), unit=" products", **BAR):
            for _ in range(TRIES):
                self._read_stock(pk)
                sums = self.sums(pk)
                if sums["reserved"] == sums["held"]:
                    break

    def _read_stock(self, pk: str) -> None:
        stock, _ = self._shop.ask("GET", f"{self._products_url}/{pk}/stock")
        self.execute(ADD_STOCK, {"pk": pk, **(stock or dict.fromkeys(STOCK, 0))})
        self.execute("UPDATE orders SET held = 0 WHERE product_id = ?", (pk,))
        for page in self._shop.pages(f"{self._products_url}/{pk}/reservations"):
            self.executemany(ADD_RESERVATION, ({"product_id": pk, **each} for each in page))

    def sums(self, pk: str) -> dict[str, int]:
        """Return the stock of a product and the sums over its orders, by the names in SUMS."""
        return dict(self.execute(SUMS, (pk,)).fetchone())

    def strays(self, pk: str) -> set[Stray]:
        """Return the strays of a product."""
        return set(map(tuple, self.execute(STRAYS, (pk,))))


def compare(shop: Shop, wait: Callable[[], object]) -> tuple[list[Finding], str]:
    """Compare the stock of a shop with its orders; return the inconsistencies, and how much was
    compared. Raise ShopUnavailable.

    `wait` is called between the two looks; it must take long enough for pending commands to finish
    or be settled.
    """
    with closing(_Look(shop)) as first, closing(_Look(shop)) as second:
        first.read_orders()
        first.list_products()
        first.read_stocks()
        suspects = ((pk,) for pk in first.products() if any(_found_twice(pk, first, first)))
        if second.executemany("INSERT INTO products VALUES (?)", suspects).rowcount:
            wait()
            second.read_orders()
            second.read_stocks()
        findings = [each for pk in second.products() for each in _found_twice(pk, first, second)]
        [(products, orders)] = first.execute(COUNTS)
        return findings, f"{count(products, 'product')} and {count(orders, 'order')}"


def _found_twice(pk: str, first_look: _Look, second_look: _Look) -> Iterator[Finding]:
    """Yield the inconsistencies of a product that both looks found."""
    first, second = first_look.sums(pk), second_look.sums(pk)
    if not (_adds_up(first) or _adds_up(second)):
        numbers = ", ".join(f"{name} {second[name]}" for name in STOCK)
        yield Finding(pk, f"its stock does not add up: {numbers}")
    reserved, shipped = second["reserved"], second["shipped"]
    if first["reserved"] != first["held"] and reserved != second["held"]:
        yield Finding(pk, f"reserved is {reserved}, but its reservations hold {second['held']}")
    for state, order_pk, quantity, held in sorted(first_look.strays(pk) & second_look.strays(pk)):
        text = f"{count(held, 'unit')} held for {state} order {order_pk}"
        if state == "PLACED":
            yield Finding(pk, f"{text}, not {quantity}")
        else:
            yield Finding(pk, text, order_pk, held, state)
    # An order becomes SHIPPED before its units count as shipped. So the second look's orders must
    # cover the first look's `shipped`, and its `shipped` must cover the first look's orders.
    if first["shipped"] > second["sent"] or shipped < first["sent"]:
        yield Finding(pk, f"shipped is {shipped}, but its SHIPPED orders contain {second['sent']}")


def _adds_up(sums: dict[str, int]) -> bool:
    received, *parts = (sums[name] for name in STOCK)
    return received == sum(parts) and min(parts) >= 0


def count(number: int, what: str) -> str:
    """Return a number of things, in the plural unless it is 1."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"

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
from pydantic import BaseModel
from tqdm import tqdm
from urllib3 import Retry

from shopsphere.http_sessions import reason_of, session
from shopsphere.records import StorageName
from shopsphere.settings import Settings

PAGE = 1000
TIMEOUT_SECONDS = 30
RETRIES = Retry(
    4, connect=0, backoff_factor=0.2, status_forcelist=(502, 503, 504), raise_on_status=False
)
"""Of reads, but not where nothing listens: that is reported at once."""
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

ADD_ITEM = """
INSERT OR REPLACE INTO orders (product_id, pk, placed, shipped) VALUES
(:product_id, :pk, :quantity * (:status = 'PLACED'), :quantity * (:status = 'SHIPPED'))
"""

ADD_STOCK = "INSERT OR REPLACE INTO stocks VALUES (:pk, :received, :available, :reserved, :shipped)"

ADD_RESERVATION = """
INSERT INTO orders (product_id, pk, held) VALUES (:product_id, :order_id, :quantity)
ON CONFLICT DO UPDATE SET held = excluded.held
"""

SUMS = """
SELECT stocks.*, received - available - reserved - stocks.shipped AS lost,
       min(available, reserved, stocks.shipped) < 0 AS is_below_zero,
       ifnull(sum(held), 0) AS held, ifnull(sum(orders.shipped), 0) AS sent
FROM stocks LEFT JOIN orders ON product_id = stocks.pk WHERE stocks.pk = ?
"""
"""The stock of a product and the sums over its orders.

`lost` are received units that are nowhere. `held` counts reserved units, `sent` those of SHIPPED
orders.
"""
COUNTS = "SELECT (SELECT count(*) FROM products), count(DISTINCT pk) FROM orders"
STRAYS = "SELECT pk, placed, held FROM orders WHERE product_id = ? AND placed != held"


class ShopUnavailable(Exception):
    """A service does not respond as it should; the message says why and what to do."""


class Health(BaseModel):
    """The health that a service reports."""

    service: str
    storage: StorageName
    fallback: bool = False


Json = dict[str, Any]
"""A JSON object from a response, with the field names of OpenAPI."""
Stray = tuple[str, int, int]
"""An order's pk, the units that it ordered while PLACED, and the units held for it."""


class Finding(NamedTuple):
    """An inconsistency of a product, and the order to settle if that releases units."""

    product_pk: str
    text: str
    order_pk: str | None = None
    units: int = 0


class Shop:
    """The services of a shop, as its administrator if the settings name one."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._http = session(RETRIES, settings.ca_file)

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def _sign_in(self) -> None:
        url = self.settings.user_service_url
        password = self.settings.admin_password.get_secret_value()
        account = {"email": self.settings.admin_email, "password": password}
        found, _ = self.ask("POST", f"{url}/login", json=account)
        self._http.headers["Authorization"] = f"Bearer {found['access_token']}"
        # Only the access token is needed; sessions left behind would displace those of people.
        self._send("POST", f"{url}/logout", json={"refresh_token": found["refresh_token"]})

    def pages(self, url: str) -> Iterator[list[Json]]:
        """Yield a list in pages, or nothing if it does not exist."""
        after: str | None = None
        while after != "":
            page, after = self.ask("GET", url, params={"limit": PAGE, "after": after})
            yield page or []

    def ask(self, method: str, url: str, **options: Json) -> tuple[Any, str]:
        """Return the JSON of a success, or None for a GET with a 404, and the cursor if another
        page follows; log in if that is required, and again when the token has expired. Raise
        ShopUnavailable.

        The `options` are those of `requests`.
        """
        response = self._send(method, url, **options)
        is_login = url == f"{self.settings.user_service_url}/login"
        if response.status_code == 401 and self.settings.admin_email and not is_login:
            self._sign_in()
            response = self._send(method, url, **options)
        said = f"{url} responds with {response.status_code}"
        try:
            found = response.json()
            if response.ok:
                return found, response.headers["X-Cursor"] if response.links else ""
            detail = found["detail"]
        except (ValueError, LookupError, TypeError) as error:
            raise ShopUnavailable(f"{said}, but not as a ShopSphere service does") from error
        if response.status_code == 404 and method == "GET":
            return None, ""
        if response.status_code in (401, 403):
            detail = f"{detail} Set ADMIN_EMAIL and ADMIN_PASSWORD here as for the shop."
        raise ShopUnavailable(f"{said}: {detail}")

    def _send(self, method: str, url: str, **options: Json) -> requests.Response:
        try:
            return self._http.request(method, url, timeout=TIMEOUT_SECONDS, **options)  # type: ignore[arg-type]  # dicts
        except requests.RequestException as error:
            raise ShopUnavailable(f"{url} does not respond ({reason_of(error)}).") from error


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
        self.execute(ADD_STOCK, {"pk": pk, **(stock or UNKNOWN)})
        self.execute("UPDATE orders SET held = 0 WHERE product_id = ?", (pk,))
        for page in self._shop.pages(f"{self._products_url}/{pk}/reservations"):
            self.executemany(ADD_RESERVATION, ({"product_id": pk, **each} for each in page))

    def sums(self, pk: str) -> dict[str, int]:
        """Return the stock of a product and the sums over its orders, by the names in SUMS."""
        return dict(self.execute(SUMS, (pk,)).fetchone())

    def strays(self, pk: str) -> set[Stray]:
        """Return the strays of a product: orders whose placed and held units differ."""
        return set(map(tuple, self.execute(STRAYS, (pk,))))


class Report(NamedTuple):
    """The inconsistencies, and the numbers of products and orders compared."""

    findings: list[Finding]
    products: int
    orders: int


def compare(shop: Shop, wait: Callable[[], object]) -> Report:
    """Compare the stock of a shop with its orders. Raise ShopUnavailable.

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
        return Report(findings, products, orders)


def _found_twice(pk: str, first_look: _Look, second_look: _Look) -> Iterator[Finding]:
    """Yield the inconsistencies of a product that both looks found."""
    strays = sorted(first_look.strays(pk) & second_look.strays(pk))
    first, second = first_look.sums(pk), second_look.sums(pk)
    _, received, available, reserved, shipped, *_ = second.values()
    if first["lost"] and second["lost"]:
        figures = f"available {available} + reserved {reserved} + shipped {shipped}"
        yield Finding(pk, f"received is {received}, {_by(second['lost'])} for {figures}")
    if first["is_below_zero"] and second["is_below_zero"]:
        text = f"available is {available}, reserved {reserved}, shipped {shipped}: one is below 0"
        yield Finding(pk, text)
    too_many = sum(held - placed for _, placed, held in strays)
    if first["reserved"] != first["held"]:
        too_many += second["reserved"] - second["held"]
    if too_many:
        yield Finding(pk, f"reserved is {reserved}, {_by(too_many)} for its PLACED orders")
    for order_pk, placed, held in strays:
        yield Finding(pk, _stray(order_pk, placed, held), None if placed else order_pk, held)
    # An order becomes SHIPPED before its units count as shipped. So the second look's orders must
    # cover the first look's `shipped`, and its `shipped` must cover the first look's orders.
    too_many = max(first["shipped"] - second["sent"], 0) or min(shipped - first["sent"], 0)
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

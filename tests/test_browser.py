"""The documentation in a real browser, with its buttons pressed, and no other host within reach."""

from collections.abc import Iterator

import pytest

from tests.apps import openapi_of
from tests.browser import CHROMEDRIVER, CHROMIUM, HOST, Browser
from tests.launching import three_services
from tests.servers import Trio, wait_until

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and CHROMEDRIVER),
    reason="there is no Chromium here: install chromium and chromium-driver to test Swagger UI",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.chrome.quit()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trio]:
    """A fresh shop in which anyone can do anything."""
    with three_services(tmp_path_factory.mktemp("shop"), USE_REDIS="false") as shop:
        yield shop


@pytest.fixture(autouse=True)
def nothing_from_elsewhere_and_nothing_in_red(browser: Browser) -> Iterator[None]:
    """After each test: nothing in the console is red, as a request to another host would be."""
    yield
    assert browser.complaints() == []


def test_every_example_of_a_fresh_shop_works_with_a_real_pk(browser: Browser, shop: Trio) -> None:
    users = browser.open(shop.user)
    registered = users.try_out("POST", "/register")
    token = users.try_out("POST", "/login").body["access_token"]
    users.authorize(token)
    assert users.try_out("GET", "/me").body == registered.body
    assert users.try_out("PATCH", "/me").status == 200
    assert users.tried == documented("user")

    products = browser.open(shop.product)
    products.authorize(token)
    product = products.try_out("POST", "/products")
    assert product.status == 201
    pk = product.body["pk"]
    assert products.try_out("GET", "/products").body == [product.body]
    assert products.try_out("GET", "/products/search").body == [product.body]
    assert products.try_out("GET", "/products/{pk}", pk=pk).body == product.body
    assert products.try_out("PATCH", "/products/{pk}", pk=pk).body["name"] == "Laptop, 14 inch"
    assert products.try_out("POST", "/products/{pk}/stock", pk=pk).body["quantity"] == 15
    reservation = "/products/{pk}/reservations/{order_pk}"
    held = products.try_out("PUT", reservation, pk=pk)
    assert held.status == 201
    assert products.try_out("GET", "/products/{pk}/reservations", pk=pk).body == [held.body]
    assert products.try_out("POST", f"{reservation}/ship", pk=pk).status == 204
    laptop = {"name": "Laptop", "price": 999.99, "quantity": 10}
    other = shop.product.post("/products", laptop).json()["pk"]
    assert products.try_out("DELETE", reservation, pk=other).status == 204
    assert products.try_out("DELETE", "/products/{pk}", pk=other).status == 204
    figures = products.try_out("GET", "/products/{pk}/stock", pk=pk).body
    assert figures == {"received": 15, "available": 13, "reserved": 0, "shipped": 2}
    assert products.tried == documented("product")

    orders = browser.open(shop.order)
    orders.authorize(token)
    placed = orders.try_out("POST", "/order", {"product_id": pk, "quantity": 2})
    assert placed.status == 201
    assert placed.body["user_id"] == registered.body["pk"]
    assert orders.try_out("GET", "/orders").body == [placed.body]
    order = placed.body["pk"]
    assert orders.try_out("GET", "/orders/{pk}", pk=order).body == placed.body
    again = shop.order.post("/order", {"product_id": pk, "quantity": 1}).json()["pk"]
    assert orders.try_out("POST", "/orders/{pk}/cancel", pk=again).body["status"] == "CANCELLED"
    assert orders.try_out("POST", "/orders/{pk}/ship", pk=order).body["status"] == "SHIPPED"
    settled = orders.try_out("POST", "/orders/{pk}/settle", {"product_id": pk}, pk=order)
    assert settled.body["outcome"] == "shipped"
    assert orders.tried == documented("order")


def test_a_request_to_another_host_would_be_red(browser: Browser, shop: Trio) -> None:
    browser.open(shop.product)
    browser.chrome.execute_script("fetch('https://cdn.jsdelivr.net/', {mode: 'no-cors'})")
    wait_until(lambda: any("ERR_NAME_NOT_RESOLVED" in line for line in browser.complaints()))


def test_the_operations_and_redoc_need_no_more_than_this_shop(browser: Browser, shop: Trio) -> None:
    products = browser.open(shop.product)
    health = products.try_out("GET", "/").body
    assert health["service"] == "product"
    assert products.try_out("GET", "/ready").body == health
    assert "http_requests_total" in products.try_out("GET", "/metrics").text
    browser.chrome.get(f"http://{HOST}:{shop.product.port}/redoc")
    wait_until(lambda: products.all('[role="menuitem"]'), why="Redoc shows the routes")
    # The mark of whose page it is comes last; it used to come from a server of theirs.
    wait_until(lambda: products.all('a[href="https://redocly.com/redoc/"]'))


def documented(service: str) -> set[str]:
    """Return the routes of a service, without those that all three have."""
    paths = openapi_of(service)["paths"]
    routes = {f"{method.upper()} {path}" for path in paths for method in paths[path]}
    return routes - {"GET /", "GET /ready", "GET /metrics"}

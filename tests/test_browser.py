"""The documentation in a real browser, with its buttons pressed, and no other host within reach."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service as Driver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from tests.apps import openapi_of
from tests.launching import three_services
from tests.servers import Service, Trio, wait_until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
CHROMEDRIVER = shutil.which("chromedriver")
HOST = "shop.test"
"""The services as seen from elsewhere; for localhost, Swagger UI leaves some requests out."""

OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--window-size=1200,700", f"--host-resolver-rules=MAP {HOST} 127.0.0.1, MAP * ~NOTFOUND",
)  # fmt: skip
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and CHROMEDRIVER),
    reason="there is no Chromium here: install chromium and chromium-driver to test Swagger UI",
)


class Shown(NamedTuple):
    """An answer as the page shows it."""

    status: int
    text: str

    @property
    def body(self) -> Any:
        return json.loads(self.text)


class Browser:
    """Chromium, and its complaints, among them any request to another host."""

    def __init__(self, profile: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM or ""
        for option in (*OPTIONS, f"--user-data-dir={profile}"):
            options.add_argument(option)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.chrome = webdriver.Chrome(options=options, service=Driver(CHROMEDRIVER))

    def complaints(self) -> list[str]:
        """Return what stands in red in the console, since this was called last."""
        logged = self.chrome.get_log("browser")  # type: ignore[no-untyped-call]
        return [str(entry["message"]) for entry in logged if entry["level"] == "SEVERE"]

    def open(self, service: Service) -> "Swagger":
        """Open the documentation of a service."""
        self.chrome.get(f"http://{HOST}:{service.port}/docs")
        page = Swagger(self.chrome)
        page.find(".opblock")
        return page


class Swagger:
    """The documentation of one service, open in the browser."""

    def __init__(self, chrome: webdriver.Chrome) -> None:
        self.chrome = chrome
        self.tried: set[str] = set()
        """The routes that were tried, as the page names them."""

    def all(self, css: str) -> list[WebElement]:
        return self.chrome.find_elements(By.CSS_SELECTOR, css)

    def find(self, css: str) -> WebElement:
        """Return the first such element, as soon as there is one."""
        waiting = WebDriverWait(self.chrome, 15, 0.02)
        return waiting.until(lambda _: self.all(css), css)[0]

    def press(self, css: str) -> None:
        """Press a button, as soon as it is there."""
        leave_field_and_click = "document.activeElement.blur(); arguments[0].click()"
        self.chrome.execute_script(leave_field_and_click, self.find(css))

    def write(self, css: str, text: str) -> None:
        """Paste this in the place of what stands in a field."""
        self.find(css).send_keys(Keys.CONTROL, "a")
        self.chrome.execute_cdp_cmd("Input.insertText", {"text": text})

    def authorize(self, token: str) -> None:
        """Paste an access token where the cursor is when the Authorize button was pressed."""
        self.press(".btn.authorize")
        box = ".auth-container:has(input:focus)"
        assert "AccessToken" in self.find(box).text
        self.write(f"{box} input", token)
        self.press(f"{box} button.authorize")
        wait_until(lambda: "Authorized" in self.all(".auth-container")[-1].text)
        self.press(".btn-done")

    def try_out(self, method: str, path: str, body: object = None, **parameters: str) -> Shown:
        """Open a route, press 'Try it out', fill in what is given, press 'Execute', close it."""
        self.tried.add(f"{method} {path}")
        block = f'.opblock-{method.lower()}:has([data-path="{path}"])'
        self.press(f"{block} .opblock-summary-control")
        self.press(f"{block} .try-out__btn")
        for name, value in parameters.items():
            self.write(f'{block} tr[data-param-name="{name}"] input', value)
        if body is not None:
            self.write(f"{block} textarea.body-param__text", json.dumps(body))
        self.press(f"{block} .execute")
        answer = f"{block} .live-responses-table tbody"
        status = self.find(f"{answer} .response-col_status").text.split()[0]
        texts = [element.text for element in self.all(f"{answer} .highlight-code code")]
        self.press(f"{block} .opblock-summary-control")  # a page with all open is slow
        return Shown(int(status), texts[0] if texts else "")


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

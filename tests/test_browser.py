"""The documentation in a real browser, with its buttons pressed, and no other host within reach."""

import json
import shutil
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service as Driver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from tests.launching import three_services
from tests.people import CLOSED, PEOPLE
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


class Swagger:
    """The documentation of one service, open in the browser."""

    def __init__(self, chrome: Chrome, service: Service) -> None:
        self.chrome = chrome
        chrome.get(f"http://{HOST}:{service.port}/docs")
        self.find(".opblock")

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
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for option in (*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = Chrome(options=options, service=Driver(CHROMEDRIVER))
    yield chrome
    chrome.quit()


def complaints(chrome: Chrome) -> list[str]:
    """Return what stands in red in the console, since this was called last."""
    logged = chrome.get_log("browser")  # type: ignore[no-untyped-call]
    return [str(entry["message"]) for entry in logged if entry["level"] == "SEVERE"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trio]:
    """A fresh shop in which anyone can do anything."""
    with three_services(tmp_path_factory.mktemp("shop"), USE_REDIS="false") as shop:
        yield shop


@pytest.fixture(autouse=True)
def nothing_from_elsewhere_and_nothing_in_red(chrome: Chrome) -> Iterator[None]:
    """After each test: nothing in the console is red, as a request to another host would be."""
    yield
    assert complaints(chrome) == []


def test_examples_work_as_they_are_and_with_a_real_pk(chrome: Chrome, shop: Trio) -> None:
    users = Swagger(chrome, shop.user)
    registered = users.try_out("POST", "/register")
    token = users.try_out("POST", "/login").body["access_token"]
    users.authorize(token)
    assert users.try_out("GET", "/me").body == registered.body

    products = Swagger(chrome, shop.product)
    product = products.try_out("POST", "/products")
    pk = product.body["pk"]
    assert products.try_out("GET", "/products/search").body == [product.body]
    reservation = "/products/{pk}/reservations/{order_pk}"
    assert products.try_out("PUT", reservation, pk=pk).status == 201
    assert products.try_out("DELETE", reservation, pk=pk).status == 204

    orders = Swagger(chrome, shop.order)
    placed = orders.try_out("POST", "/order", {"product_id": pk, "quantity": 2})
    assert orders.try_out("GET", "/orders/{pk}", pk=placed.body["pk"]).body == placed.body
    items = {"items": [{"product_id": pk, "quantity": 1, "unit_price": 999.99}]}
    several = Swagger(chrome, shop.order).try_out("POST", "/order", items)
    assert several.body["total"] == 999.99


def test_the_story_of_a_customer_in_a_closed_shop(
    chrome: Chrome, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("closed")
    with three_services(folder, USE_REDIS="false", **CLOSED) as shop:
        users = Swagger(chrome, shop.user)
        registered = users.try_out("POST", "/register")
        session = users.try_out("POST", "/login").body
        users.authorize(session["access_token"])
        users = Swagger(chrome, shop.user)  # loaded again, it still knows the token
        assert users.try_out("GET", "/me").body == registered.body
        token = {"refresh_token": session["refresh_token"]}
        assert users.try_out("POST", "/refresh", token).status == 200
        locked = [element.text.split()[:2] for element in users.all(".opblock:has(.unlocked)")]
        locked += [element.text.split()[:2] for element in users.all(".opblock:has(.locked)")]
        assert sorted(locked) == [["GET", "/me"], ["PATCH", "/me"], ["POST", "/me/delete"]]

        lamp = {"name": "Lamp", "price": 1, "quantity": 9}
        product = shop.product.post("/products", lamp, headers=PEOPLE["administrator"]).json()
        orders = Swagger(chrome, shop.order)
        orders.authorize(session["access_token"])
        placed = orders.try_out("POST", "/order", {"product_id": product["pk"], "quantity": 2})
        assert placed.body["user_id"] == registered.body["pk"]

        users = Swagger(chrome, shop.user)
        assert users.try_out("POST", "/logout", token).status == 204
        assert users.try_out("POST", "/me/delete").status == 204


def test_a_request_to_another_host_would_be_red(chrome: Chrome, shop: Trio) -> None:
    Swagger(chrome, shop.product)
    chrome.execute_script("fetch('https://cdn.jsdelivr.net/', {mode: 'no-cors'}).catch(() => 0)")
    wait_until(lambda: any("ERR_NAME_NOT_RESOLVED" in line for line in complaints(chrome)))


def test_the_operations_and_redoc_need_no_more_than_this_shop(chrome: Chrome, shop: Trio) -> None:
    products = Swagger(chrome, shop.product)
    health = products.try_out("GET", "/").body
    assert health["service"] == "product"
    assert products.try_out("GET", "/ready").body == health
    assert "http_requests_total" in products.try_out("GET", "/metrics").text
    chrome.get(f"http://{HOST}:{shop.product.port}/redoc")
    wait_until(lambda: products.all('[role="menuitem"]'), why="Redoc shows the routes")
    # The mark of whose page it is comes last; it used to come from a server of theirs.
    wait_until(lambda: products.all('a[href="https://redocly.com/redoc/"]'))

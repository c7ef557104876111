"""A headless Chromium, and what a person does in Swagger UI with it."""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from selenium import webdriver
from selenium.webdriver.chrome.service import Service as Driver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from tests.servers import Service, wait_until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
CHROMEDRIVER = shutil.which("chromedriver")
HOST = "shop.test"
"""The services as seen from elsewhere; for localhost, Swagger UI leaves some requests out."""

OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--window-size=1200,700", f"--host-resolver-rules=MAP {HOST} 127.0.0.1, MAP * ~NOTFOUND",
)  # fmt: skip


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

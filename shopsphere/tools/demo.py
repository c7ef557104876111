"""A dozen demo products with names, prices and quantities.

`python -m shopsphere.tools.demo PRODUCT_SERVICE_URL USER_SERVICE_URL` adds them to an empty shop,
as the administrator if the settings name one, and prints the outcome.
"""

import json
import sys
from pathlib import Path
from typing import Any

import requests

from shopsphere.settings import Settings

FILE = Path(__file__).with_name("demo_products.json")
PRODUCTS: list[dict[str, object]] = json.loads(FILE.read_text(encoding="utf-8"))


def add_products(product_url: str, user_url: str) -> str:
    """Add the products unless the shop has any; return a sentence about the outcome."""
    with requests.Session() as shop:
        shop.trust_env = False  # no proxy
        if _call(shop, "GET", f"{product_url}/products?limit=1"):
            return "The shop has products already, so --demo adds none."
        settings = Settings.load()
        if settings.admin_email:
            password = settings.admin_password.get_secret_value()
            account = {"email": settings.admin_email, "password": password}
            token = _call(shop, "POST", f"{user_url}/login", account)["access_token"]
            shop.headers["Authorization"] = f"Bearer {token}"
        for product in PRODUCTS:
            _call(shop, "POST", f"{product_url}/products", product)
    return f"--demo added {len(PRODUCTS)} products: {product_url}/products"


def _call(shop: requests.Session, method: str, url: str, body: object = None) -> Any:  # JSON
    response = shop.request(method, url, json=body, timeout=10)
    response.raise_for_status()
    return response.json()


if __name__ == "__main__":
    try:
        print(add_products(*sys.argv[1:]))
    except requests.RequestException as error:
        reason = str(error)
        if error.response is not None and error.response.status_code == 401:
            reason = "only an administrator can, so set ADMIN_EMAIL and ADMIN_PASSWORD."
        print(f"--demo added no products: {reason}")

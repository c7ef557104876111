"""A dozen products to look at: name, price and how many there are.

`python -m shopsphere.demo URL_OF_THE_PRODUCTS URL_OF_THE_USERS` puts them into an empty shop, as
the administrator that the settings name, and prints what came of it.
"""

import sys

import requests

from shopsphere.sessions import NEVER_AGAIN, session
from shopsphere.settings import Settings

TIMEOUT_SECONDS = 10

PRODUCTS = (
    ("Laptop, 14 inch", 999.99, 10),
    ("Mechanical keyboard", 89.9, 40),
    ("Wireless mouse", 24.5, 120),
    ("USB-C dock", 139.0, 25),
    ("Monitor, 27 inch", 279.0, 18),
    ("Webcam, 1080p", 49.95, 60),
    ("Noise-cancelling headphones", 199.0, 30),
    ("Desk lamp", 34.9, 75),
    ("Notebook, A5, dotted", 4.2, 500),
    ("Café mug, 0.3 l", 8.5, 200),
    ("Backpack, 20 l", 64.0, 45),
    ("Last one: signed poster", 15.0, 1),
)


def add_products(product_url: str, user_url: str) -> str:
    """Put them in, unless there are products already; return a sentence on what was done."""
    with session(NEVER_AGAIN) as shop:
        present = shop.get(f"{product_url}/products?limit=1", timeout=TIMEOUT_SECONDS)
        present.raise_for_status()
        if present.json():
            return "The shop has products already, so --demo adds none."
        shop.headers.update(_administrator(shop, user_url))
        for name, price, quantity in PRODUCTS:
            product = {"name": name, "price": price, "quantity": quantity}
            added = shop.post(f"{product_url}/products", json=product, timeout=TIMEOUT_SECONDS)
            added.raise_for_status()
    return f"--demo added {len(PRODUCTS)} products: {product_url}/products"


def _administrator(shop: requests.Session, user_url: str) -> dict[str, str]:
    """Return the headers of the administrator, if there is one."""
    settings = Settings.load()
    if not settings.admin_email:
        return {}
    login = {
        "email": settings.admin_email, "password": settings.admin_password.get_secret_value()
    }  # fmt: skip
    answer = shop.post(f"{user_url}/login", json=login, timeout=TIMEOUT_SECONDS)
    answer.raise_for_status()
    return {"Authorization": f"Bearer {answer.json()['access_token']}"}


if __name__ == "__main__":
    try:
        print(add_products(*sys.argv[1:]))
    except requests.RequestException as error:
        reason = str(error)
        if error.response is not None and error.response.status_code == 401:
            reason = (
                "only an administrator may add products, so set ADMIN_EMAIL and ADMIN_PASSWORD."
            )
        print(f"--demo added no products: {reason}")

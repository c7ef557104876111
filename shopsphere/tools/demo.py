"""A dozen demo products with names, prices and quantities.

`python -m shopsphere.tools.demo PRODUCT_SERVICE_URL USER_SERVICE_URL` adds them to an empty shop,
as the administrator if the settings name one, and prints the outcome.
"""

import json
import sys
from contextlib import closing
from pathlib import Path
from uuid import uuid4

from shopsphere.settings import Settings
from shopsphere.tools.audit import Json, Shop, ShopUnavailable

FILE = Path(__file__).with_name("demo_products.json")
PRODUCTS: list[Json] = json.loads(FILE.read_text(encoding="utf-8"))


def add_products(product_url: str, user_url: str) -> str:
    """Add the products unless the shop has any; return a sentence about the outcome."""
    urls = {"product_service_url": product_url, "user_service_url": user_url}
    with closing(Shop(Settings.load().model_copy(update=urls))) as shop:
        if shop.ask("GET", f"{product_url}/products", params={"limit": 1})[0]:
            return "The shop has products already, so --demo adds none."
        for product in PRODUCTS:
            key = {"Idempotency-Key": str(uuid4())}
            shop.ask("POST", f"{product_url}/products", json=product, headers=key)
    return f"--demo added {len(PRODUCTS)} products: {product_url}/products"


if __name__ == "__main__":
    try:
        print(add_products(*sys.argv[1:]))
    except ShopUnavailable as error:
        print(f"--demo added no products: {error}")

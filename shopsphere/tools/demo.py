"""A dozen demo products with names, prices and quantities.

`python -m shopsphere.tools.demo PRODUCT_SERVICE_URL` adds them to an empty shop, and prints the
outcome.
"""

import json
import sys
from contextlib import closing
from pathlib import Path
from uuid import uuid4

from shopsphere.settings import Settings
from shopsphere.tools.audit import Shop, ShopUnavailable

PRODUCTS = json.loads(Path(__file__).with_name("demo_products.json").read_text(encoding="utf-8"))


def add_products(product_url: str) -> str:
    """Add the products unless the shop has any; return a sentence about the outcome."""
    with closing(Shop(Settings.load())) as shop:
        if shop.ask("GET", f"{product_url}/products", params={"limit": 1})[0]:
            return "--demo added no products: the shop already has some."
        for product in PRODUCTS:
            key = {"Idempotency-Key": str(uuid4())}
            shop.ask("POST", f"{product_url}/products", json=product, headers=key)
    return f"--demo added {len(PRODUCTS)} products: {product_url}/products"


if __name__ == "__main__":
    try:
        print(add_products(*sys.argv[1:]))
    except ShopUnavailable as error:
        print(f"--demo added no products: {error}")

"""The product service over HTTP, on each storage."""

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from starlette.requests import Request
from starlette.responses import StreamingResponse

from product_service import PRODUCTS
from shopsphere.domain.pks import is_pk, new_pk
from shopsphere.domain.values import Page, Product
from shopsphere.web.paging import Paging, listing
from tests.apps import CheckedClient, refusal, running
from tests.servers import RedisServer

BILLION = 1_000_000_000


@pytest.fixture
def products(storage_environment: dict[str, str]) -> Iterator[CheckedClient]:
    """A product service on each storage, with nothing in it."""
    with running("product", storage_environment) as products:
        yield products


@pytest.fixture
def lamp(products: CheckedClient) -> dict[str, Any]:
    """A product there are ten of."""
    return add(products, "Lamp", price=19.99, quantity=10)


def add(products: CheckedClient, name: str, price: float = 1, quantity: int = 1) -> dict[str, Any]:
    body = {"name": name, "price": price, "quantity": quantity}
    response = products.post("/products", json=body)
    assert response.status_code == 201, response.text
    product: dict[str, Any] = response.json()
    return product


def figures(products: CheckedClient, pk: str) -> tuple[int, ...]:
    """Return received, available, reserved and shipped."""
    stock = products.get(f"/products/{pk}/stock").json()
    return tuple(stock[name] for name in ("received", "available", "reserved", "shipped"))


def walk(products: CheckedClient, path: str) -> Iterator[list[dict[str, Any]]]:
    """Yield page after page, following the links as they are."""
    while path:
        response = products.get(path)
        assert response.status_code == 200, response.text
        yield response.json()
        links = re.findall(r'<([^<>]+)>; rel="next"', response.headers.get("Link", ""))
        path = links[0] if links else ""


# Products


def test_a_product_is_added_and_found_where_location_says(products: CheckedClient) -> None:
    body = {"name": "Laptop", "price": 999.99, "quantity": BILLION}
    response = products.post("/products", json=body)
    laptop = response.json()
    assert response.status_code == 201
    assert laptop == {**body, "pk": laptop["pk"], "created_at": laptop["created_at"]}
    assert (is_pk(laptop["pk"]), laptop["created_at"][-1]) == (True, "Z")
    assert response.headers["Location"] == f"/products/{laptop['pk']}"
    assert products.get(response.headers["Location"]).json() == laptop
    assert figures(products, laptop["pk"]) == (BILLION, BILLION, 0, 0)


PRICES = {
    "-0.0": 0, "0.01": 0.01, "1e2": 100, "19.990": 19.99, "0.29": 0.29, "1.15": 1.15, "4.35": 4.35,
    "1000000.00": 1_000_000, "999999.99": 999_999.99,
}  # fmt: skip
NAMES = {
    "  Lamp\t\n".center(30_000): "Lamp", " " * 99 + "💡" * 200: "💡" * 200, "e\u0301": "\u00e9",
    "\u1100\u1161" * 200: "\uac00" * 200, "<b>'\";--{}  نور": "<b>'\";--{}  نور",
}  # fmt: skip


def test_a_price_is_kept_to_the_cent_and_a_name_stripped_and_in_nfc(
    products: CheckedClient,
) -> None:
    for written in PRICES:
        body = f'{{"name": "Lamp", "price": {written}, "quantity": 1}}'
        assert products.send_text("POST", "/products", body).status_code == 201, written
    for given in NAMES:
        add(products, given)
    listed = products.get("/products").json()
    assert [each["price"] for each in listed[: len(PRICES)]] == list(PRICES.values())
    assert [each["name"] for each in listed[len(PRICES) :]] == list(NAMES.values())


def test_name_and_price_can_be_changed_one_by_one_and_together(
    products: CheckedClient, lamp: dict[str, Any]
) -> None:
    path = f"/products/{lamp['pk']}"
    for change, changed in (
        ({"name": " Torch "}, {"name": "Torch", "price": 19.99}),
        ({"price": 0}, {"name": "Torch", "price": 0}),
        ({"name": "Lamp", "price": 5.5}, {"name": "Lamp", "price": 5.5}),
    ):
        assert products.patch(path, json=change).json() == {**lamp, **changed}
    assert products.get(path).json() == {**lamp, "price": 5.5}


def test_a_key_makes_one_product_and_a_replay_shows_it_as_it_is_now(
    products: CheckedClient,
) -> None:
    body = {"name": "Laptop", "price": 999.99, "quantity": 10}

    def add_again(body: dict[str, Any], key: str = "mine") -> Any:
        return products.post("/products", json=body, headers={"Idempotency-Key": key})

    first, again = add_again(body), add_again(body)
    made = first.json()
    assert (again.status_code, again.json()) == (first.status_code, made) == (201, made)
    assert again.headers["Location"] == first.headers["Location"]
    assert ["Idempotent-Replayed" in each.headers for each in (first, again)] == [False, True]
    assert refusal(add_again({**body, "price": 1})) == (422, "idempotency_key_reused")
    another = add_again(body, "another").json()
    assert products.get("/products").json() == [made, another]
    renamed = products.patch(first.headers["Location"], json={"name": "Notebook"}).json()
    assert add_again(body).json() == renamed
    found = products.get("/products/search", params={"name": "laptop"}).json()
    assert [each["pk"] for each in found] == [another["pk"]]
    products.delete(first.headers["Location"])
    assert refusal(add_again(body)) == (404, "product_not_found")
    assert products.get("/products").json() == [another]


def test_a_503_says_that_a_write_may_have_counted(own_redis: RedisServer) -> None:
    on_redis = {"USE_REDIS": "required", "REDIS_PORT": str(own_redis.port)}
    with running("product", on_redis) as products:
        made = add(products, "Lamp")
        own_redis.stop()
        for path, body in (
            ("/products", {"name": "Lamp", "price": 1, "quantity": 1}),
            (f"/products/{made['pk']}/stock", {"change": 1}),
        ):
            response = products.post(path, json=body)
            assert refusal(response) == (503, "storage_unavailable")
            assert "may have taken effect" in response.json()["detail"]


# Stock


def test_units_are_added_and_removed_between_zero_and_a_billion(
    products: CheckedClient, lamp: dict[str, Any]
) -> None:
    path = f"/products/{lamp['pk']}/stock"
    for written, code, available in (
        ("-11", "insufficient_quantity", 10),
        ("-" + "9" * 4000, "insufficient_quantity", 10),
        ("999999991", "stock_limit", None),
        ("9" * 4000, "stock_limit", None),
    ):
        response = products.send_text("POST", path, f'{{"change": {written}}}')
        assert refusal(response) == (400, code), written
        assert response.json().get("available") == available
    changed = products.post(path, json={"change": BILLION - 10})
    assert (changed.status_code, changed.json()) == (200, {**lamp, "quantity": BILLION})


def test_a_key_of_1_to_255_printable_characters_counts_a_change_of_stock_once(
    products: CheckedClient, lamp: dict[str, Any]
) -> None:
    path = f"/products/{lamp['pk']}/stock"

    def change(units: int, *keys: bytes) -> Any:
        headers = [(b"Idempotency-Key", key) for key in keys]
        return products.post(path, json={"change": units}, headers=headers)

    for keys in ([b"a", b"a"], [b""], [b"x" * 256], [b"a\x85"], [b"a\xadb"], [b"a\tb"]):
        refused = change(5, *keys)
        assert refusal(refused) == (400, "invalid_request"), keys
        assert refused.json()["errors"][0]["field"].lower() == "idempotency-key"
    answers = [change(5, b"~" * 255) for _ in range(2)]
    assert [answer.json()["quantity"] for answer in answers] == [15, 15]
    assert [answer.headers.get("Idempotent-Replayed") for answer in answers] == [None, "true"]
    assert refusal(change(6, b"~" * 255)) == (422, "idempotency_key_reused")


# Reservations


def test_units_are_held_shipped_and_given_back(
    products: CheckedClient, lamp: dict[str, Any]
) -> None:
    everything = f"/products/{lamp['pk']}/reservations"
    shipped, released = (f"{everything}/{new_pk()}" for _ in range(2))
    first = products.put(shipped, json={"quantity": 4})
    assert (first.status_code, first.json()) == (
        201,
        {
            "product_id": lamp["pk"], "order_id": shipped[-26:], "quantity": 4,
            "unit_price": 19.99, "product_name": "Lamp",
        },
    )  # fmt: skip
    again = products.put(shipped, json={"quantity": 4})
    assert (again.status_code, again.json()) == (200, first.json())
    assert products.get(everything).json() == [first.json()]
    assert figures(products, lamp["pk"]) == (10, 6, 4, 0)
    assert refusal(products.put(shipped, json={"quantity": 3})) == (409, "reservation_conflict")
    too_many = products.put(f"{everything}/{new_pk()}", json={"quantity": 7})
    assert refusal(too_many) == (409, "insufficient_quantity")
    assert too_many.json()["available"] == 6
    products.put(released, json={"quantity": 1})
    assert products.delete(released).status_code == 204
    assert products.post(f"{shipped}/ship").status_code == 204
    assert figures(products, lamp["pk"]) == (10, 6, 0, 4)
    assert refusal(products.put(released, json={"quantity": 1})) == (409, "reservation_released")
    assert refusal(products.post(f"{released}/ship")) == (409, "reservation_released")
    assert refusal(products.delete(shipped)) == (409, "reservation_shipped")


def test_an_order_service_on_another_storage_is_turned_away(
    products: CheckedClient, lamp: dict[str, Any], storage: str
) -> None:
    path = f"/products/{lamp['pk']}/reservations/{new_pk()}"
    other = {"X-Storage": "memory" if storage == "redis" else "redis"}
    for method, end in (("PUT", ""), ("DELETE", ""), ("POST", "/ship")):
        body = {"quantity": 1} if method == "PUT" else None
        refused = products.request(method, path + end, json=body, headers=other)
        assert refusal(refused) == (503, "storage_mismatch")
    assert figures(products, lamp["pk"]) == (10, 10, 0, 0)
    taken = products.put(path, json={"quantity": 1}, headers={"X-Storage": storage})
    assert taken.status_code == 201


# Lists


@pytest.mark.anyio
@pytest.mark.parametrize("sizes", [(0,), (0, 0), (0, 1), (1, 0), (0, 1, 0, 1, 0)])
async def test_a_whole_list_is_a_json_array_whatever_pages_it_is_read_in(
    sizes: tuple[int, ...],
) -> None:
    pages = [[Product(new_pk(), "Lamp", 1, 1) for _ in range(size)] for size in sizes]

    async def read(after: str | None, _: int) -> Page[Product]:
        number = int(after or 0)
        return Page(pages[number], str(number + 1), is_last=number + 1 == len(pages))

    response = await listing(
        Request({"type": "http"}), Paging(limit=None, after=None), read, PRODUCTS
    )
    assert isinstance(response, StreamingResponse)
    text = b"".join([part async for part in response.body_iterator if isinstance(part, bytes)])
    assert [each["pk"] for each in json.loads(text)] == [each.pk for page in pages for each in page]


def test_a_list_is_one_array_or_pages_that_meet_every_product_once(products: CheckedClient) -> None:
    assert list(walk(products, "/products?limit=5")) == [[]]
    added = [add(products, f"Product {number}") for number in range(102)]
    whole = products.get("/products")
    assert (whole.headers["Content-Type"], "Link" in whole.headers) == ("application/json", False)
    assert whole.json() == added
    for query, sizes in (
        ("limit=1000", [102]),
        ("limit=0040", [40, 40, 22]),
        (f"after={added[0]['pk']}", [100, 1]),
        (f"after={added[99]['pk']}&limit=1", [1, 1]),
    ):
        pages = list(walk(products, f"/products?{query}"))
        assert [len(page) for page in pages] == sizes
        assert [each for page in pages for each in page] == added[-sum(sizes) :]


def test_a_walk_over_a_search_meets_every_hit_once(products: CheckedClient) -> None:
    text = 'a&b=c+d "50%" #1 ü><'
    added = [add(products, f"{number} {text}") for number in range(5)]
    add(products, "other")
    pages = list(walk(products, f"/products/search?{urlencode({'name': text, 'limit': 2})}"))
    assert [len(page) for page in pages] == [2, 2, 1]
    hits = [product for page in pages for product in page]
    assert hits == products.get("/products/search", params={"name": text}).json()
    assert sorted(hits, key=added.index) == added

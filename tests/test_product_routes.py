"""The product service over HTTP, on each storage."""

import json
import re
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from starlette.requests import Request
from starlette.responses import StreamingResponse

from product_service import PRODUCTS
from shopsphere.domain.pks import is_pk, new_pk
from shopsphere.domain.values import Page, Product, Role
from shopsphere.paging import Paging, listing
from shopsphere.tokens import Tokens
from tests.apps import JWT_SECRET, CheckedClient, bearer, running
from tests.bad_bodies import (
    NOT_A_NUMBER,
    NOT_TEXT,
    NOT_WHOLE,
    refuse_bad_bodies,
    refuse_bad_field,
    refuse_missing_fields,
)

BILLION = 1_000_000_000
NO_PK = "01M88Y16NKGWHEF1SV8EAR85EK"
"""It could be a pk, but nothing has it."""
IMPOSSIBLE_PKS = [
    "abc123", "0" * 25, "0" * 27, "8" + "0" * 25, "0" * 25 + "u", "0" * 25 + "I", "0" * 10_000,
    "0" * 25 + "%00", "0" * 25 + "%ff", "0" * 26 + "%0a", "%2e%2e", "*", "%EF%BC%90" * 26,
]  # fmt: skip


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


def figures(products: CheckedClient, pk: str) -> tuple[int, int, int, int]:
    """Return received, available, reserved and shipped, having seen that they add up."""
    stock = products.get(f"/products/{pk}/stock").json()
    assert stock["received"] == stock["available"] + stock["reserved"] + stock["shipped"]
    return stock["received"], stock["available"], stock["reserved"], stock["shipped"]


def refusal(response: Any) -> tuple[int, str]:
    """Return status and code of a refusal."""
    return response.status_code, response.json()["code"]


def walk(products: CheckedClient, path: str) -> Iterator[list[dict[str, Any]]]:
    """Yield page after page, following the links as they are."""
    while path:
        response = products.get(path)
        assert response.status_code == 200, response.text
        yield response.json()
        links = re.findall(r'<([^<>]+)>; rel="next"', response.headers.get("Link", ""))
        path = links[0] if links else ""


# Adding


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


def test_a_price_is_kept_to_the_cent(products: CheckedClient) -> None:
    for written, price in PRICES.items():
        body = f'{{"name": "Lamp", "price": {written}, "quantity": 1}}'
        response = products.send_text("POST", "/products", body)
        assert (response.status_code, response.json()["price"]) == (201, price), written
    listed = [product["price"] for product in products.get("/products").json()]
    assert listed == list(PRICES.values())


@pytest.mark.parametrize(
    ("given_name", "kept"),
    [
        ("  Lamp\t\n", "Lamp"), (" " * 99 + "💡" * 200, "💡" * 200),
        ("e\u0301clair", "\u00e9clair"), ("\u1100\u1161" * 200, "\uac00" * 200),
        ("<b>'\";--{}", "<b>'\";--{}"), ("two  spaces", "two  spaces"), ("نور", "نور"),
    ],
)  # fmt: skip
def test_a_name_is_stripped_and_kept_in_nfc(
    products: CheckedClient, given_name: str, kept: str
) -> None:
    product = add(products, given_name)
    assert product["name"] == kept
    assert products.get(f"/products/{product['pk']}").json() == product


@pytest.mark.parametrize(
    "name", ["", "   ", "\t\n", "x" * 201, "a\0b", "a\nb", "a\x7fb", "a\x85b", "\x00", "x" * 60_000]
)
def test_what_is_no_name_is_refused(
    products: CheckedClient, lamp: dict[str, Any], name: str
) -> None:
    for method, path in (("POST", "/products"), ("PATCH", f"/products/{lamp['pk']}")):
        body = {"name": name, "price": 1, "quantity": 1} if method == "POST" else {"name": name}
        response = products.request(method, path, json=body)
        assert response.status_code == 400
        assert response.json()["errors"][0]["field"] == "name"
    assert products.get("/products").json() == [lamp]


BAD_PRICES = [
    *NOT_A_NUMBER, '"19.99"', "-0.01", "-1", "0.001", "19.999", "1e-3", "1000000.01", "1000001",
    "1e7", "9" * 4000, "9" * 5000, "0.1234567890123456789",
]  # fmt: skip


def test_no_bad_body_makes_a_product(products: CheckedClient) -> None:
    good = {"name": '"Lamp"', "price": "19.99", "quantity": "1"}
    refuse_bad_field(products, "POST", "/products", good, "name", NOT_TEXT)
    refuse_bad_field(products, "POST", "/products", good, "price", BAD_PRICES)
    bad_quantities = [*NOT_WHOLE, "-1", "1000000001", "1.0", "1e0"]
    refuse_bad_field(products, "POST", "/products", good, "quantity", bad_quantities)
    refuse_missing_fields(products, "POST", "/products", good)
    assert products.get("/products").json() == []
    refuse_bad_bodies(products, "POST", "/products", good)
    assert len(products.get("/products").json()) == 1


def test_what_is_wrong_is_said_in_plain_words(products: CheckedClient) -> None:
    response = products.post("/products", json={"name": 5, "quantity": "5"})
    assert {error["field"]: error["message"] for error in response.json()["errors"]} == {
        "name": "must be a text",
        "price": "is required",
        "quantity": "must be a whole number",
    }


def test_errors_are_many_but_not_endless(products: CheckedClient) -> None:
    response = products.post("/products", json={"x" * 10_000 + str(n): n for n in range(5)})
    assert len(response.text) < 2000
    response = products.post("/products", json={f"field {number}": number for number in range(99)})
    assert len(response.json()["errors"]) == 20


# One product


@pytest.mark.parametrize("pk", IMPOSSIBLE_PKS)
def test_an_impossible_pk_is_simply_not_found_and_one_of_an_order_is_400(
    products: CheckedClient, lamp: dict[str, Any], pk: str
) -> None:
    def ask(product_pk: str, order_pk: str) -> list[Any]:
        reservation = f"/products/{product_pk}/reservations/{order_pk}"
        return [
            products.put(reservation, json={"quantity": 1}),
            products.delete(reservation),
            products.post(f"{reservation}/ship"),
        ]

    for response in (*ask_all(products, pk), *ask(pk, new_pk())):
        assert refusal(response) == (404, "product_not_found")
    for response in ask(lamp["pk"], pk):
        assert refusal(response) == (400, "invalid_request")
        assert response.json()["errors"][0]["field"] == "order_pk"


def ask_all(products: CheckedClient, pk: str) -> list[Any]:
    """Do all that is only possible with a product on sale."""
    path = f"/products/{pk}"
    return [
        products.get(path),
        products.patch(path, json={"price": 1}),
        products.post(f"{path}/stock", json={"change": 1}),
        products.delete(path),
    ]


def test_a_deleted_product_is_gone_from_every_read_and_takes_nothing(
    products: CheckedClient, lamp: dict[str, Any]
) -> None:
    assert products.delete(f"/products/{lamp['pk']}").status_code == 204
    for path in ("/products", "/products?limit=10", "/products/search?name=lamp"):
        assert products.get(path).json() == []
    reserve = f"/products/{lamp['pk']}/reservations/{new_pk()}"
    for response in (*ask_all(products, lamp["pk"]), products.put(reserve, json={"quantity": 1})):
        assert refusal(response) == (404, "product_not_found")


def test_name_and_price_can_be_changed_one_by_one_and_together(
    products: CheckedClient, lamp: dict[str, Any]
) -> None:
    path = f"/products/{lamp['pk']}"
    assert products.patch(path, json={"name": " Torch "}).json() == {**lamp, "name": "Torch"}
    changed = {**lamp, "name": "Torch", "price": 5.5}
    assert products.patch(path, json={"price": 5.5}).json() == changed
    assert products.patch(path, json={"name": "Lamp", "price": 19.99}).json() == lamp
    assert products.get(path).json() == lamp
    assert products.patch(path, json={"price": 0}).json() == {**lamp, "price": 0}
    assert products.get(path).json() == {**lamp, "price": 0}


def test_no_bad_change_of_a_product_is_taken(products: CheckedClient, lamp: dict[str, Any]) -> None:
    path = f"/products/{lamp['pk']}"
    refuse_bad_field(products, "PATCH", path, {"price": "1"}, "name", NOT_TEXT[1:])
    refuse_bad_field(products, "PATCH", path, {"name": '"Torch"'}, "price", BAD_PRICES[1:])
    refuse_bad_field(products, "PATCH", path, {"price": "1"}, "quantity", ["5"])
    for body in ("{}", '{"name": null}', '{"name": "Torch", "price": null}'):
        assert products.send_text("PATCH", path, body).status_code == 400
    assert products.get(path).json() == lamp


# Stock


def test_units_are_added_and_removed_between_zero_and_a_billion(
    products: CheckedClient, lamp: dict[str, Any]
) -> None:
    path = f"/products/{lamp['pk']}/stock"
    for written, code in (
        ("-11", "insufficient_quantity"),
        ("-" + "9" * 4000, "insufficient_quantity"),
        ("999999991", "stock_limit"),
        ("9" * 4000, "stock_limit"),
    ):
        response = products.send_text("POST", path, f'{{"change": {written}}}')
        assert refusal(response) == (400, code), written
        assert response.json().get("available") == (10 if code[0] == "i" else None)
        assert products.get(f"/products/{lamp['pk']}").json() == lamp
    for change, quantity in ((5, 15), (-15, 0), (0, 0), (BILLION, BILLION)):
        changed = products.post(path, json={"change": change}).json()
        assert changed == {**lamp, "quantity": quantity}


def test_a_key_counts_a_change_of_stock_once(products: CheckedClient, lamp: dict[str, Any]) -> None:
    path, key = f"/products/{lamp['pk']}/stock", {"Idempotency-Key": "mine"}
    answers = [products.post(path, json={"change": 5}, headers=key) for _ in range(2)]
    assert [answer.json()["quantity"] for answer in answers] == [15, 15]
    assert [answer.headers.get("Idempotent-Replayed") for answer in answers] == [None, "true"]
    other = products.post(path, json={"change": 6}, headers=key)
    assert refusal(other) == (422, "idempotency_key_reused")


@pytest.mark.parametrize(
    "keys", [[b"a", b"a"], [b""], [b"x" * 256], [b"a\x85"], [b"a\xadb"], [b"a\tb"]]
)
def test_a_key_is_one_text_of_1_to_255_printable_characters(
    products: CheckedClient, lamp: dict[str, Any], keys: list[bytes]
) -> None:
    path = f"/products/{lamp['pk']}/stock"
    headers = [(b"Idempotency-Key", key) for key in keys]
    response = products.post(path, json={"change": 5}, headers=headers)
    assert refusal(response) == (400, "invalid_request")
    assert response.json()["errors"][0]["field"].lower() == "idempotency-key"
    longest = {"Idempotency-Key": "~" * 255}
    assert products.post(path, json={"change": 5}, headers=longest).status_code == 200


# Reservations


def test_units_are_held_shipped_and_given_back(
    products: CheckedClient, lamp: dict[str, Any]
) -> None:
    everything = f"/products/{lamp['pk']}/reservations"
    shipped, released, late = (f"{everything}/{new_pk()}" for _ in range(3))
    first = products.put(shipped, json={"quantity": 4})
    assert (first.status_code, first.json()) == (
        201,
        {
            "product_id": lamp["pk"], "order_id": shipped[-26:], "quantity": 4,
            "unit_price": 19.99, "product_name": "Lamp",
        },
    )  # fmt: skip
    products.patch(f"/products/{lamp['pk']}", json={"name": "Torch", "price": 1})
    again = products.put(shipped, json={"quantity": 4})
    assert (again.status_code, again.json()) == (200, first.json())
    assert figures(products, lamp["pk"]) == (10, 6, 4, 0)
    assert refusal(products.put(shipped, json={"quantity": 3})) == (409, "reservation_conflict")
    too_many = products.put(f"{everything}/{new_pk()}", json={"quantity": 7})
    assert refusal(too_many) == (409, "insufficient_quantity")
    assert too_many.json()["available"] == 6
    products.put(released, json={"quantity": 1})
    assert len(products.get(everything).json()) == 2
    products.delete(f"/products/{lamp['pk']}")  # whose reservations can still end
    for _ in range(2):
        assert products.delete(released).status_code == 204
        assert products.delete(late).status_code == 204
        assert products.post(f"{shipped}/ship").status_code == 204
        assert figures(products, lamp["pk"]) == (10, 6, 0, 4)
    for path in (released, late):
        assert refusal(products.put(path, json={"quantity": 1})) == (409, "reservation_released")
        assert refusal(products.post(f"{path}/ship")) == (409, "reservation_released")
    assert refusal(products.delete(shipped)) == (409, "reservation_shipped")
    assert products.get(everything).json() == []


def test_what_was_never_a_product_is_released_and_shipped_all_the_same(
    products: CheckedClient,
) -> None:
    unknown = f"/products/{new_pk()}/reservations/{new_pk()}"
    assert products.post(f"{unknown}/ship").status_code == 204
    assert products.delete(unknown).status_code == 204
    assert refusal(products.put(unknown, json={"quantity": 1})) == (409, "reservation_released")


def test_an_order_service_on_another_storage_is_turned_away(
    products: CheckedClient, lamp: dict[str, Any], storage: str
) -> None:
    path = f"/products/{lamp['pk']}/reservations/{new_pk()}"
    other = "memory" if storage == "redis" else "redis"
    for named, status in ((other, 503), ("paper", 400), (storage, 201)):
        answer = products.put(path, json={"quantity": 1}, headers={"X-Storage": named})
        assert answer.status_code == status
        assert (answer.json().get("code") == "storage_mismatch") == (status == 503)
        assert figures(products, lamp["pk"])[2] == (status == 201)
    for response in (
        products.delete(path, headers={"X-Storage": other}),
        products.post(f"{path}/ship", headers={"X-Storage": other}),
    ):
        assert refusal(response) == (503, "storage_mismatch")


@pytest.mark.parametrize(("age", "status"), [(40, 401), (20, 201), (0, 201)])
def test_a_reservation_whose_token_is_over_comes_too_late(
    products: CheckedClient, lamp: dict[str, Any], age: float, status: int
) -> None:
    token = Tokens(JWT_SECRET, 60).issue("order-service", Role.SERVICE, time.time() - age)
    path = f"/products/{lamp['pk']}/reservations/{new_pk()}"
    response = products.put(path, json={"quantity": 1}, headers=bearer(token))
    assert response.status_code == status
    assert figures(products, lamp["pk"])[2] == (status == 201)


def test_no_bad_quantity_is_taken(products: CheckedClient, lamp: dict[str, Any]) -> None:
    path = f"/products/{lamp['pk']}"
    changes = [*NOT_A_NUMBER, "5.0", "5.5", "1e2", "9" * 5000]
    refuse_bad_field(products, "POST", f"{path}/stock", {}, "change", changes)
    quantities, reservation = [*NOT_WHOLE, "0", "-1", "1000001"], f"{path}/reservations/{new_pk()}"
    refuse_bad_field(products, "PUT", reservation, {}, "quantity", quantities)
    refuse_missing_fields(products, "PUT", reservation, {"quantity": "1"})
    assert figures(products, lamp["pk"]) == (10, 10, 0, 0)


# Lists


@pytest.mark.anyio
@pytest.mark.parametrize("sizes", [(0,), (0, 0), (0, 1), (1, 0), (0, 1, 0, 1, 0)])
async def test_a_whole_list_is_a_json_array_whatever_pages_it_is_read_in(
    sizes: tuple[int, ...],
) -> None:
    pages = [[Product(new_pk(), "Lamp", 1, 1) for _ in range(size)] for size in sizes]

    async def read(after: str | None, _: int) -> Page[Product]:
        number = int(after or 0)
        return Page(pages[number], str(number + 1) if number + 1 < len(pages) else None)

    response = await listing(Request({"type": "http"}), Paging(None, None), read, PRODUCTS)
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
        ("limit=40", [40, 40, 22]),
        (f"after={added[0]['pk']}", [100, 1]),
        (f"after={added[99]['pk']}&limit=1", [1, 1]),
    ):
        pages = list(walk(products, f"/products?{query}"))
        assert [len(page) for page in pages] == sizes
        assert [each for page in pages for each in page] == added[-sum(sizes) :]


def test_reservations_are_paged_by_order(products: CheckedClient, lamp: dict[str, Any]) -> None:
    path = f"/products/{lamp['pk']}/reservations"
    orders = [new_pk() for _ in range(5)]
    held = [products.put(f"{path}/{order}", json={"quantity": 1}).json() for order in orders]
    assert list(walk(products, f"{path}?limit=2")) == [held[:2], held[2:4], held[4:]]
    products.delete(f"{path}/{orders[3]}")
    assert list(walk(products, f"{path}?after={orders[3]}&limit=1")) == [held[4:]]


BAD_LIMITS = [
    "", "0", "-1", "1001", "1.0", "x", "+5", "%205", "%EF%BC%95", "1_0", "9" * 5000, "1%0a", "%ff",
]  # fmt: skip
BAD_CURSORS = [
    "", "%00", "%ff", "0" * 25, "0" * 10_000, NO_PK, "1-0000000", "1-00000000", "1-00000000%0a",
    "-1-00000000", "%D9%A3-00000000", "9" * 17 + "-00000000",
]  # fmt: skip


@pytest.mark.parametrize("where", ["", "/search", "/{pk}/reservations"])
def test_a_bad_limit_or_cursor_is_400(
    products: CheckedClient, lamp: dict[str, Any], where: str
) -> None:
    path = "/products" + where.replace("{pk}", lamp["pk"]) + "?name=lamp"
    for name, values in (("limit", BAD_LIMITS), ("after", BAD_CURSORS)):
        for value in values:
            if value == NO_PK and "{pk}" in where:
                continue  # there, a cursor is any pk
            response = products.get(f"{path}&{name}={value}")
            assert refusal(response) == (400, "invalid_request"), (name, value)
            assert response.json()["errors"][0]["field"] == name
    for value in ("1", "1000", "007"):
        assert products.get(f"{path}&limit={value}").status_code == 200


# Searching


@pytest.mark.parametrize("query", ["", "?name=", "?names=a", "?limit=1", "?name"])
def test_a_search_for_nothing_is_400(products: CheckedClient, query: str) -> None:
    response = products.get(f"/products/search{query}")
    assert refusal(response) == (400, "invalid_request")
    assert response.json()["errors"][0]["field"] == "name"


@pytest.mark.parametrize("text", ["a&b=c", "ü", "50%", "a+b", "a b", "#1", '"><'])
def test_a_walk_over_a_search_meets_every_hit_once(products: CheckedClient, text: str) -> None:
    names = [f"{number} {text} {text}" for number in range(5)]
    added = [add(products, name) for name in names] + [add(products, "other")]
    everything = products.get("/products/search", params={"name": text}).json()
    pages = list(walk(products, f"/products/search?{urlencode({'name': text, 'limit': 2})}"))
    assert [len(page) for page in pages] == [2, 2, 1]
    assert [product for page in pages for product in page] == everything
    assert sorted(product["pk"] for product in everything) == [each["pk"] for each in added[:5]]
    assert len(list(walk(products, f"/products/search?name={quote(text)}&limit=5"))) == 1

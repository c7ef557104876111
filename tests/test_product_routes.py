"""The product service over HTTP, on each storage."""

import json
import re
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import StreamingResponse

from in_memory_db import MemoryRecords
from product_service import PRODUCTS
from shopsphere.catalogue.products import Products
from shopsphere.domain.pks import is_pk, new_pk
from shopsphere.domain.values import Page, Product, Role
from shopsphere.paging import STREAMED_AT_ONCE, Paging, listing
from shopsphere.tokens import Tokens
from tests.apps import JWT_SECRET, CheckedClient, bearer, openapi_of, running
from tests.bad_bodies import (
    NOT_A_NUMBER,
    NOT_TEXT,
    NOT_WHOLE,
    refuse_bad_bodies,
    refuse_bad_field,
    refuse_missing_fields,
)

BILLION = 1_000_000_000
IMPOSSIBLE_PKS = [
    "x", "abc123", "0" * 25, "0" * 27, "8" + "0" * 25, "0" * 25 + "u", "0" * 25 + "I", "%20",
    "0" * 10_000, "0" * 25 + "%00", "0" * 25 + "%C3%A9", "0" * 25 + "%ff", "%2e%2e", "{}", "*",
    "0" * 25 + "%0a", "%EF%BC%90" * 26,
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
    body = {"name": "Laptop", "price": 999.99, "quantity": 10}
    response = products.post("/products", json=body)
    assert response.status_code == 201
    laptop = response.json()
    assert {name: laptop[name] for name in body} == body
    assert set(laptop) == {"pk", "name", "price", "quantity", "created_at"}
    assert is_pk(laptop["pk"])
    assert laptop["created_at"].endswith("Z")
    assert response.headers["Location"] == f"/products/{laptop['pk']}"
    assert products.get(response.headers["Location"]).json() == laptop
    assert figures(products, laptop["pk"]) == (10, 10, 0, 0)


@pytest.mark.parametrize(
    ("given_name", "kept"),
    [
        ("  Lamp\t\n", "Lamp"), ("a", "a"), ("x" * 200, "x" * 200),
        (" " * 99 + "x" * 200, "x" * 200), ("💡" * 200, "💡" * 200),
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


PRICES = {
    "0": 0, "0.0": 0, "-0.0": 0, "0.01": 0.01, "0.1": 0.1, "1": 1, "1e2": 100, "19.990": 19.99,
    "1.1E1": 11, "0.29": 0.29, "1.15": 1.15, "4.35": 4.35, "1000000": 1_000_000, "1e6": 1_000_000,
    "1000000.00": 1_000_000, "999999.99": 999_999.99,
}  # fmt: skip


def test_a_price_is_kept_to_the_cent(products: CheckedClient) -> None:
    for written, price in PRICES.items():
        body = f'{{"name": "Lamp", "price": {written}, "quantity": 1}}'
        response = products.send_text("POST", "/products", body)
        assert (response.status_code, response.json()["price"]) == (201, price), written
        assert products.get(response.headers["Location"]).json()["price"] == price
    listed = [product["price"] for product in products.get("/products").json()]
    assert listed == list(PRICES.values())


BAD_PRICES = [
    *NOT_A_NUMBER, '"19.99"', "-0.01", "-1", "0.001", "19.999", "1e-3", "1000000.01", "1000001",
    "1e7", "9" * 4000, "9" * 5000, "0.1234567890123456789",
]  # fmt: skip


@pytest.mark.parametrize("quantity", [0, 1, BILLION])
def test_a_quantity_is_from_nothing_to_a_billion(products: CheckedClient, quantity: int) -> None:
    assert add(products, "Lamp", quantity=quantity)["quantity"] == quantity


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


def test_a_pk_in_a_body_is_refused_by_name(products: CheckedClient, lamp: dict[str, Any]) -> None:
    response = products.post("/products", json=lamp)
    assert response.status_code == 400
    named = {error["field"]: error["message"] for error in response.json()["errors"]}
    assert named == {
        "pk": "is not a field of this request",
        "created_at": "is not a field of this request",
    }
    assert products.get("/products").json() == [lamp]


def test_what_is_wrong_is_said_in_plain_words(products: CheckedClient) -> None:
    response = products.post("/products", json={"name": 5, "quantity": "5"})
    assert {error["field"]: error["message"] for error in response.json()["errors"]} == {
        "name": "must be a text",
        "price": "is required",
        "quantity": "must be a whole number",
    }


def test_of_a_repeated_field_the_last_one_counts(products: CheckedClient) -> None:
    body = '{"name": "A", "name": "B", "price": "x", "price": 1, "quantity": 1}'
    assert products.send_text("POST", "/products", body).json()["name"] == "B"


def test_errors_are_many_but_not_endless(products: CheckedClient) -> None:
    body = {f"field {number}": number for number in range(1000)} | {"x" * 10_000: 1}
    response = products.post("/products", json=body)
    assert len(response.json()["errors"]) == 20
    response = products.post("/products", json={"x" * 10_000: 1})
    assert len(response.text) < 1000


# One product


def test_an_impossible_pk_is_simply_not_found(products: CheckedClient) -> None:
    order_pk = new_pk()
    for pk in IMPOSSIBLE_PKS:
        for method, path, body in (
            ("GET", "", None),
            ("PATCH", "", {"price": 1}),
            ("DELETE", "", None),
            ("POST", "/stock", {"change": 1}),
            ("GET", "/stock", None),
            ("GET", "/reservations", None),
            ("PUT", f"/reservations/{order_pk}", {"quantity": 1}),
            ("DELETE", f"/reservations/{order_pk}", None),
            ("POST", f"/reservations/{order_pk}/ship", None),
        ):
            response = products.request(method, f"/products/{pk}{path}", json=body)
            assert refusal(response) == (404, "product_not_found"), (method, pk, path)


@pytest.mark.parametrize("pk", ["a%2Fb", "%2F", "0" * 25 + "%2F"])
def test_an_encoded_slash_in_a_pk_leads_nowhere(products: CheckedClient, pk: str) -> None:
    assert products.get(f"/products/{pk}").status_code == 404


def test_a_pk_in_lower_case_is_another_pk(products: CheckedClient, lamp: dict[str, Any]) -> None:
    response = products.get(f"/products/{lamp['pk'].lower()}")
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
    refuse_bad_bodies(products, "PATCH", path, {"name": '"Torch"'})


def test_openapi_says_that_a_change_has_a_field_and_that_none_is_null() -> None:
    schema = openapi_of("product")["components"]["schemas"]["ProductUpdate"]
    assert schema["minProperties"] == 1
    assert [field["type"] for field in schema["properties"].values()] == ["string", "number"]
    assert "null" not in json.dumps(schema)


def test_a_deleted_product_is_gone_from_every_read_and_takes_nothing(
    products: CheckedClient, lamp: dict[str, Any]
) -> None:
    path = f"/products/{lamp['pk']}"
    deleted = products.delete(path)
    assert deleted.status_code == 204
    assert products.get("/products").json() == []
    assert products.get("/products?limit=10").json() == []
    assert products.get("/products/search?name=lamp").json() == []
    for response in (
        products.get(path),
        products.delete(path),
        products.patch(path, json={"price": 1}),
        products.post(f"{path}/stock", json={"change": 1}),
        products.put(f"{path}/reservations/{new_pk()}", json={"quantity": 1}),
    ):
        assert refusal(response) == (404, "product_not_found")


# Stock


def test_units_are_booked_in_and_out(products: CheckedClient, lamp: dict[str, Any]) -> None:
    path = f"/products/{lamp['pk']}/stock"
    for change, quantity in ((5, 15), (-15, 0), (0, 0), (BILLION, BILLION), (-BILLION, 0)):
        assert products.post(path, json={"change": change}).json() == {
            **lamp,
            "quantity": quantity,
        }
    assert figures(products, lamp["pk"]) == (0, 0, 0, 0)


@pytest.mark.parametrize("change", ["-11", "-1000000001", "-" + "9" * 4000])
def test_stock_never_falls_below_zero(
    products: CheckedClient, lamp: dict[str, Any], change: str
) -> None:
    path = f"/products/{lamp['pk']}/stock"
    response = products.send_text("POST", path, f'{{"change": {change}}}')
    assert refusal(response) == (400, "insufficient_quantity")
    assert response.json()["available"] == 10
    assert "10" in response.json()["detail"]
    assert products.get(f"/products/{lamp['pk']}").json() == lamp


@pytest.mark.parametrize("change", ["999999991", "1000000001", "9" * 4000])
def test_stock_never_exceeds_a_billion(
    products: CheckedClient, lamp: dict[str, Any], change: str
) -> None:
    path = f"/products/{lamp['pk']}/stock"
    response = products.send_text("POST", path, f'{{"change": {change}}}')
    assert refusal(response) == (400, "stock_limit")
    assert products.get(f"/products/{lamp['pk']}").json() == lamp


def test_no_bad_change_of_stock_is_taken(products: CheckedClient, lamp: dict[str, Any]) -> None:
    path = f"/products/{lamp['pk']}/stock"
    bad = [*NOT_A_NUMBER, "5.0", "5.5", "1e2", "9" * 5000]
    refuse_bad_field(products, "POST", path, {}, "change", bad)
    assert figures(products, lamp["pk"]) == (10, 10, 0, 0)
    refuse_bad_bodies(products, "POST", path, {"change": "1"})
    assert figures(products, lamp["pk"]) == (11, 11, 0, 0)


# Reservations


def test_a_reservation_takes_units_once_at_the_price_of_that_moment(
    products: CheckedClient, lamp: dict[str, Any]
) -> None:
    order = new_pk()
    path = f"/products/{lamp['pk']}/reservations/{order}"
    first = products.put(path, json={"quantity": 4})
    assert first.status_code == 201
    assert first.json() == {
        "product_id": lamp["pk"],
        "order_id": order,
        "quantity": 4,
        "unit_price": 19.99,
        "product_name": "Lamp",
    }
    products.patch(f"/products/{lamp['pk']}", json={"name": "Torch", "price": 1})
    again = products.put(path, json={"quantity": 4})
    assert (again.status_code, again.json()) == (200, first.json())
    assert figures(products, lamp["pk"]) == (10, 6, 4, 0)
    assert products.get(f"/products/{lamp['pk']}").json()["quantity"] == 6
    other = products.put(path, json={"quantity": 3})
    assert refusal(other) == (409, "reservation_conflict")
    assert products.get(f"/products/{lamp['pk']}/reservations").json() == [first.json()]


def test_a_refusal_says_what_there_is_and_is_final(
    products: CheckedClient, lamp: dict[str, Any]
) -> None:
    path = f"/products/{lamp['pk']}/reservations/{new_pk()}"
    refused = products.put(path, json={"quantity": 11})
    assert refusal(refused) == (409, "insufficient_quantity")
    assert refused.json()["available"] == 10
    assert "10" in refused.json()["detail"]
    products.post(f"/products/{lamp['pk']}/stock", json={"change": 100})
    again = products.put(path, json={"quantity": 11})
    assert (again.status_code, again.json()) == (409, refused.json())
    assert figures(products, lamp["pk"]) == (110, 110, 0, 0)


def test_units_are_given_back_once_and_cannot_be_taken_up_again(
    products: CheckedClient, lamp: dict[str, Any]
) -> None:
    path = f"/products/{lamp['pk']}/reservations/{new_pk()}"
    products.put(path, json={"quantity": 4})
    for _ in range(2):
        assert products.delete(path).status_code == 204
        assert figures(products, lamp["pk"]) == (10, 10, 0, 0)
    assert refusal(products.put(path, json={"quantity": 4})) == (409, "reservation_released")
    assert refusal(products.post(f"{path}/ship")) == (409, "reservation_released")
    assert products.get(f"/products/{lamp['pk']}/reservations").json() == []


@pytest.mark.parametrize("is_there", [True, False])
def test_releasing_what_is_unknown_refuses_a_reservation_that_comes_late(
    products: CheckedClient, lamp: dict[str, Any], is_there: bool
) -> None:
    path = f"/products/{lamp['pk'] if is_there else new_pk()}/reservations/{new_pk()}"
    for _ in range(2):
        assert products.delete(path).status_code == 204
    assert refusal(products.put(path, json={"quantity": 1})) == (409, "reservation_released")
    assert refusal(products.post(f"{path}/ship")) == (409, "reservation_released")


@pytest.mark.parametrize("is_there", [True, False])
def test_shipping_what_is_unknown_changes_nothing(
    products: CheckedClient, lamp: dict[str, Any], is_there: bool
) -> None:
    path = f"/products/{lamp['pk'] if is_there else new_pk()}/reservations/{new_pk()}"
    assert products.post(f"{path}/ship").status_code == 204
    response = products.put(path, json={"quantity": 1})
    assert response.status_code == (201 if is_there else 404)


def test_units_are_shipped_once_and_not_given_back(
    products: CheckedClient, lamp: dict[str, Any]
) -> None:
    path = f"/products/{lamp['pk']}/reservations/{new_pk()}"
    products.put(path, json={"quantity": 4})
    for _ in range(2):
        assert products.post(f"{path}/ship").status_code == 204
        assert figures(products, lamp["pk"]) == (10, 6, 0, 4)
    assert refusal(products.delete(path)) == (409, "reservation_shipped")
    assert products.get(f"/products/{lamp['pk']}/reservations").json() == []


def test_reservations_of_a_deleted_product_can_still_end(
    products: CheckedClient, lamp: dict[str, Any]
) -> None:
    cancelled, shipped = (f"/products/{lamp['pk']}/reservations/{new_pk()}" for _ in range(2))
    for path in (cancelled, shipped):
        products.put(path, json={"quantity": 2})
    products.delete(f"/products/{lamp['pk']}")
    assert len(products.get(f"/products/{lamp['pk']}/reservations").json()) == 2
    assert products.delete(cancelled).status_code == 204
    assert products.post(f"{shipped}/ship").status_code == 204
    assert figures(products, lamp["pk"]) == (10, 8, 0, 2)


def test_no_bad_reservation_is_taken(products: CheckedClient, lamp: dict[str, Any]) -> None:
    path = f"/products/{lamp['pk']}/reservations/{new_pk()}"
    bad = [*NOT_WHOLE, "0", "-1", "1000001"]
    refuse_bad_field(products, "PUT", path, {}, "quantity", bad)
    refuse_missing_fields(products, "PUT", path, {"quantity": "1"})
    assert figures(products, lamp["pk"]) == (10, 10, 0, 0)
    refuse_bad_bodies(products, "PUT", path, {"quantity": "1"})


def test_an_impossible_order_pk_is_400(products: CheckedClient, lamp: dict[str, Any]) -> None:
    for order_pk in IMPOSSIBLE_PKS:
        path = f"/products/{lamp['pk']}/reservations/{order_pk}"
        for response in (
            products.put(path, json={"quantity": 1}),
            products.delete(path),
            products.post(f"{path}/ship"),
        ):
            assert refusal(response) == (400, "invalid_request"), order_pk
            assert response.json()["errors"][0]["field"] == "order_pk"


def test_an_order_service_on_another_storage_is_turned_away(
    products: CheckedClient, lamp: dict[str, Any], storage: str
) -> None:
    path = f"/products/{lamp['pk']}/reservations/{new_pk()}"
    other = {"X-Storage": "memory" if storage == "redis" else "redis"}
    for response in (
        products.put(path, json={"quantity": 1}, headers=other),
        products.delete(path, headers=other),
        products.post(f"{path}/ship", headers=other),
    ):
        assert refusal(response) == (503, "storage_mismatch")
    strange = products.put(path, json={"quantity": 1}, headers={"X-Storage": "paper"})
    assert refusal(strange) == (400, "invalid_request")
    assert figures(products, lamp["pk"]) == (10, 10, 0, 0)
    same = {"X-Storage": storage}
    assert products.put(path, json={"quantity": 1}, headers=same).status_code == 201


# Tokens, while none is needed


def test_a_bad_token_is_401_where_one_could_matter_and_ignored_elsewhere(
    products: CheckedClient, lamp: dict[str, Any]
) -> None:
    path = f"/products/{lamp['pk']}"
    bad = bearer("nonsense")
    for method, where in (
        ("POST", "/products"),
        ("PATCH", path),
        ("DELETE", path),
        ("POST", f"{path}/stock"),
        ("GET", f"{path}/stock"),
        ("GET", f"{path}/reservations"),
        ("PUT", f"{path}/reservations/{new_pk()}"),
        ("DELETE", f"{path}/reservations/{new_pk()}"),
        ("POST", f"{path}/reservations/{new_pk()}/ship"),
    ):
        assert refusal(products.request(method, where, headers=bad)) == (401, "invalid_token")
    for where in ("/", "/ready", "/metrics", "/products", "/products/search?name=l", path):
        assert products.get(where, headers=bad).status_code == 200
    good = bearer(Tokens(JWT_SECRET, 60).issue(new_pk(), Role.USER))
    assert products.get(f"{path}/stock", headers=good).status_code == 200


@pytest.mark.parametrize(("age", "status"), [(40, 401), (20, 201), (0, 201)])
def test_a_reservation_whose_token_is_over_comes_too_late(
    products: CheckedClient, lamp: dict[str, Any], age: float, status: int
) -> None:
    token = Tokens(JWT_SECRET, 60).issue_for_service("order-service", time.time() - age)
    path = f"/products/{lamp['pk']}/reservations/{new_pk()}"
    response = products.put(path, json={"quantity": 1}, headers=bearer(token))
    assert response.status_code == status
    assert figures(products, lamp["pk"])[2] == (status == 201)


# Lists


def test_the_whole_list_is_one_json_array_oldest_first(products: CheckedClient) -> None:
    added: list[dict[str, Any]] = []
    for count in (0, 1, 499, 500, 501):  # 500 are read at a time
        added += [add(products, f"Product {number}") for number in range(len(added), count)]
        response = products.get("/products")
        assert response.headers["Content-Type"] == "application/json"
        assert "Link" not in response.headers
        assert response.json() == added


@pytest.mark.anyio
async def test_a_list_whose_end_is_deleted_while_it_is_sent_is_a_json_array_all_the_same() -> None:
    products = Products(MemoryRecords())
    added = [await products.create("Lamp", 1, 1) for _ in range(STREAMED_AT_ONCE + 1)]

    async def read(after: str | None, limit: int) -> Page[Product]:
        page = await products.page(after, limit)
        if after is None:
            await products.delete(added[-1].pk)
        return page

    response = await listing(Request({"type": "http"}), Paging(None, None), read, PRODUCTS)
    assert isinstance(response, StreamingResponse)
    text = b"".join([part async for part in response.body_iterator if isinstance(part, bytes)])
    assert [product["pk"] for product in json.loads(text)] == [product.pk for product in added[:-1]]


def test_a_walk_over_pages_meets_every_product_once(products: CheckedClient) -> None:
    added = [add(products, f"Product {number}") for number in range(6)]
    for limit, sizes in ((1, [1] * 6), (2, [2, 2, 2]), (4, [4, 2]), (6, [6]), (1000, [6])):
        pages = list(walk(products, f"/products?limit={limit}"))
        assert [len(page) for page in pages] == sizes
        assert [product for page in pages for product in page] == added


def test_an_empty_list_is_one_empty_page(products: CheckedClient) -> None:
    assert list(walk(products, "/products?limit=5")) == [[]]


def test_a_cursor_alone_means_a_page_of_100(products: CheckedClient) -> None:
    added = [add(products, f"Product {number}") for number in range(102)]
    pages = list(walk(products, f"/products?after={added[0]['pk']}"))
    assert [len(page) for page in pages] == [100, 1]


def test_a_walk_goes_on_when_the_product_at_its_cursor_is_deleted(
    products: CheckedClient,
) -> None:
    added = [add(products, f"Product {number}") for number in range(5)]
    seen = []
    for page in walk(products, "/products?limit=2"):
        seen += page
        products.delete(f"/products/{page[-1]['pk']}")
    assert seen == added


def test_deleted_products_do_not_shorten_a_page(products: CheckedClient) -> None:
    added = [add(products, f"Product {number}") for number in range(6)]
    for product in added[1:4]:
        products.delete(f"/products/{product['pk']}")
    pages = list(walk(products, "/products?limit=2"))
    assert pages == [[added[0], added[4]], [added[5]]]


def test_reservations_are_paged_as_products_are(
    products: CheckedClient, lamp: dict[str, Any]
) -> None:
    path = f"/products/{lamp['pk']}/reservations"
    orders = [new_pk() for _ in range(5)]
    held = [products.put(f"{path}/{order}", json={"quantity": 1}).json() for order in orders]
    assert products.get(path).json() == held
    pages = list(walk(products, f"{path}?limit=2"))
    assert pages == [held[:2], held[2:4], held[4:]]
    products.delete(f"{path}/{orders[3]}")
    assert list(walk(products, f"{path}?after={orders[3]}&limit=1")) == [held[4:]]
    products.delete(f"{path}/{orders[4]}")
    assert list(walk(products, f"{path}?limit=3")) == [held[:3]]


BAD_LIMITS = [
    "", " ", "0", "-1", "1001", "1.0", "1e1", "x", "+5", "%205", "%EF%BC%95", "%C2%B2", "0x1",
    "1_0", "true", "NaN", "9" * 5000, "%00", "1%0a", "%ff",
]  # fmt: skip
BAD_CURSORS = ["", "x", "%00", "%ff", "0" * 25, "0" * 27, "0" * 10_000, "null", "%2F", "u" * 26]


@pytest.mark.parametrize("where", ["", "/search", "/{pk}/reservations"])
def test_a_bad_limit_or_cursor_is_400(
    products: CheckedClient, lamp: dict[str, Any], where: str
) -> None:
    path = "/products" + where.replace("{pk}", lamp["pk"]) + "?name=lamp"
    for name, values in (("limit", BAD_LIMITS), ("after", BAD_CURSORS)):
        for value in values:
            response = products.get(f"{path}&{name}={value}")
            assert refusal(response) == (400, "invalid_request"), (name, value)
            assert response.json()["errors"][0]["field"] == name
    for value in ("1", "1000", "007"):
        assert products.get(f"{path}&limit={value}").status_code == 200


# Searching


HITS = {
    "lap": ["Laptop"], "TOP": ["Desktop top", "Laptop"], "op": ["Desktop top", "Laptop"],
    "p t": ["Desktop top"], "% ": ["100% wool"], "STRASSE": ["Straßenlampe"],
    "straße": ["Straßenlampe"], "ÉCL": ["éclair"], "e\u0301c": ["éclair"], "ΣΊΣΥΦΟΣ": ["Σίσυφος"],
    "100%": ["100% wool"], "%": ["100% wool"], "💡": ["💡"], "*": [], "l_p": [], " laptop": [],
    "laptop ": [], "x" * 201: [], "x" * 30_000: [], "\0": [], "p\0": [], "\\": [], "{": [],
    "\ufffd": [],
}  # fmt: skip


def test_a_search_finds_the_text_anywhere_whatever_its_case(products: CheckedClient) -> None:
    for name in ("Laptop", "Desktop top", "Straßenlampe", "éclair", "Σίσυφος", "100% wool", "💡"):
        add(products, name)
    for text, names in HITS.items():
        response = products.get("/products/search", params={"name": text})
        assert response.status_code == 200
        assert sorted(product["name"] for product in response.json()) == names, text


@pytest.mark.parametrize("query", ["", "?name=", "?names=a", "?limit=1", "?name"])
def test_a_search_for_nothing_is_400(products: CheckedClient, query: str) -> None:
    response = products.get(f"/products/search{query}")
    assert refusal(response) == (400, "invalid_request")
    assert response.json()["errors"][0]["field"] == "name"


def test_a_search_takes_bytes_that_are_no_text(products: CheckedClient) -> None:
    for query in ("%ff", "%c3%28", "%ed%a0%80", "%", "%zz"):
        assert products.get(f"/products/search?name={query}").json() == []


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


def test_a_pk_is_a_cursor_as_long_as_it_is_in_the_list(products: CheckedClient) -> None:
    first, gone = (add(products, f"Lamp {number}") for number in range(2))
    products.delete(f"/products/{gone['pk']}")
    assert products.get(f"/products?after={first['pk']}").json() == []
    for other in (gone["pk"], new_pk(), "1-00000000"):
        response = products.get(f"/products?after={other}")
        assert refusal(response) == (400, "invalid_request"), other
        assert response.json()["errors"][0]["field"] == "after"


def test_a_cursor_is_a_position_and_goes_on_for_ever(products: CheckedClient) -> None:
    added = [add(products, f"Lamp {number}") for number in range(2)]
    [cursor] = re.findall("after=([^&>]+)", products.get("/products?limit=1").headers["Link"])
    list_digest = cursor.partition("-")[2]
    for product in added:
        products.delete(f"/products/{product['pk']}")
    added.append(add(products, "Lamp 3"))
    for position in ("0", cursor.partition("-")[0]):
        assert products.get(f"/products?after={position}-{list_digest}").json() == added[2:]
    assert products.get(f"/products?after={'9' * 16}-{list_digest}").json() == []


def test_a_cursor_of_another_search_is_400(products: CheckedClient) -> None:
    for number in range(3):
        add(products, f"Lamp {number}")
    link = products.get("/products/search?name=lamp&limit=1").headers["Link"]
    [cursor] = re.findall("after=([^&>]+)", link)
    other = products.get(f"/products/search?name=amp&after={cursor}")
    assert refusal(other) == (400, "invalid_request")
    assert refusal(products.get(f"/products?after={cursor}")) == (400, "invalid_request")


def test_a_search_follows_a_change_of_name(products: CheckedClient, lamp: dict[str, Any]) -> None:
    products.patch(f"/products/{lamp['pk']}", json={"name": "Torch"})
    assert products.get("/products/search?name=lamp").json() == []
    assert [each["pk"] for each in products.get("/products/search?name=torch").json()] == [
        lamp["pk"]
    ]


# Whatever comes in


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.sampled_from(["name", "price", "quantity", "change", "pk"]) | st.text()
BODIES = st.dictionaries(FIELDS, JSON_VALUES, max_size=4) | JSON_VALUES


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(body=BODIES, text=st.text(), number=st.integers() | st.text())
def test_nothing_that_comes_in_breaks_a_service(
    products: CheckedClient, body: object, text: str, number: object
) -> None:
    """The client checks each answer: documented, in our shape, and so never a 500."""
    pk = add(products, "Lamp", quantity=5)["pk"]
    content = json.dumps(body)
    for method, path in (
        ("POST", "/products"),
        ("PATCH", f"/products/{pk}"),
        ("POST", f"/products/{pk}/stock"),
        ("PUT", f"/products/{pk}/reservations/{new_pk()}"),
    ):
        products.send_text(method, path, content)
    query = urlencode({"name": text, "limit": number, "after": text})
    for path in ("/products", "/products/search", f"/products/{pk}/reservations"):
        products.get(f"{path}?{query}")
    products.get("/products/search", params={"name": text or "x"})
    products.get(f"/products/x{quote(text, safe='')}")
    assert figures(products, pk)

"""Who may do what: the table of docs/access.md, tried for every route of the three services."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from httpx2 import Response

from shopsphere.domain.pks import new_pk
from shopsphere.web.access import guard
from tests.apps import BUILD, bearer, running, settings_of
from tests.people import (
    ANOTHER,
    CLOSED,
    CUSTOMER,
    METRICS_TOKEN,
    OPEN,
    PEOPLE,
    SECRET,
    USERS,
    enlist,
)
from tests.servers import ROOT, Service

APPS = {service: build(settings_of({})) for service, build in BUILD.items()}
DOCS = {"GET /docs", "GET /redoc", "GET /openapi.json"}
LET_IN = "let in"
TOO_MUCH = b"\xff" * (64 * 1024 + 1)
LAPTOP = {"name": "Laptop", "price": 999.99, "quantity": 1_000}


def table() -> dict[str, dict[str, str]]:
    """Return the table of the page: for each route, what happens to whom."""
    text = (ROOT / "docs" / "access.md").read_text(encoding="utf-8")
    [rows] = re.findall(r"(?m)^\| with `AUTH_REQUIRED=true`.*\n\|[- |]+\n((?:\|.*\n)+)", text)
    found = {}
    for row in rows.splitlines():
        routes, *cells = [cell.strip() for cell in row.strip("|").split("|")]
        for route in re.findall(r"`((?:GET|POST|PUT|PATCH|DELETE) [^`]+)`", routes):
            found[route] = dict(zip(PEOPLE, cells, strict=True))
    return found


def routes(app: FastAPI) -> dict[str, APIRoute]:
    """Return the routes of a service by method and path, without those of its docs."""
    return {
        f"{method} {route.path}": route
        for route in app.routes
        if isinstance(route, APIRoute) and route.include_in_schema
        for method in route.methods or ()
    }


TABLE = table()
ALL_ROUTES = [(service, route) for service, app in APPS.items() for route in routes(app)]


class Shop:
    """The three services in this process, and a product service that the order service calls."""

    def __init__(self, stack: ExitStack, folder: Path, environment: dict[str, str]) -> None:
        self.is_closed = environment["AUTH_REQUIRED"] == "true"
        self.stock = Service("product", folder / "product.log", 0, **environment).start()
        stack.callback(self.stock.stop)
        environment = {**environment, "PRODUCT_SERVICE_URL": self.stock.url}
        self.clients = {each: stack.enter_context(running(each, environment)) for each in BUILD}
        enlist(self.clients["user"], *USERS)
        made = self.stock.post("/products", LAPTOP, headers=PEOPLE["administrator"])
        self.product_pk = str(made.json()["pk"])

    def ask(self, service: str, method: str, path: str, who: str, **more: Any) -> Response:
        """Send a request as one of the people."""
        return self.clients[service].request(method, path, headers=PEOPLE[who], **more)

    def order(self, who: str, key: str = "") -> dict[str, Any]:
        """Order one unit, as one of the people."""
        headers = {**PEOPLE[who], "Idempotency-Key": key or new_pk()}
        body = {"product_id": self.product_pk, "quantity": 1}
        answer = self.clients["order"].post("/order", headers=headers, json=body)
        assert answer.status_code == 201, answer.text
        order: dict[str, Any] = answer.json()
        return order

    def listed(self, who: str) -> set[str]:
        """Return the orders that one of the people sees."""
        return {order["pk"] for order in self.ask("order", "GET", "/orders", who).json()}

    def outcome(self, service: str, route: str, who: str, is_refused: bool) -> str:
        """Tell what happens to this person: 401, 403, 404, or let in, whatever comes then.

        For a refusal, everything about the request is wrong: who one is comes first.
        """
        method, path = route.split(" ")
        if is_refused:
            status = self.ask(service, method, f"{path}?after=-", who, content=TOO_MUCH).status_code
            return str(status)
        if "{pk}" in path:
            pk = self.order("customer")["pk"] if service == "order" else self._new_product()
            path = path.replace("{pk}", pk).replace("{order_pk}", new_pk())
        status = self.ask(service, method, path, who).status_code
        return str(status) if status in (401, 403, 404) else LET_IN

    def _new_product(self) -> str:
        made = self.ask("product", "POST", "/products", "administrator", json=LAPTOP)
        return str(made.json()["pk"])


@pytest.fixture(scope="module")
def shop(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    """A shop in memory, closed or open as the parameter says."""
    mode = CLOSED if request.param == "closed" else OPEN
    with ExitStack() as stack:
        yield Shop(stack, tmp_path_factory.mktemp("shop"), {"USE_REDIS": "false", **mode})


closed = pytest.mark.parametrize("shop", ["closed"], indirect=True)
opened = pytest.mark.parametrize("shop", ["open"], indirect=True)
every_route = pytest.mark.parametrize(("service", "route"), ALL_ROUTES)


def test_the_table_has_every_route_and_no_other() -> None:
    assert set(TABLE) == {route for _, route in ALL_ROUTES} | DOCS


def test_a_route_without_a_rule_stops_the_start() -> None:
    router = APIRouter()
    router.get("/forgotten")(lambda: "no rule")
    with pytest.raises(TypeError, match="/forgotten"):
        guard(cast(APIRoute, router.routes[0]), ignores_query=False)


@every_route
def test_openapi_says_where_a_token_is_taken(service: str, route: str) -> None:
    method, path = route.split(" ")
    operation = APPS[service].openapi()["paths"][path][method.lower()]
    takes_token = TABLE[route]["nobody"] != "yes"
    needs_it_in_open_mode = TABLE[route]["nobody"].startswith("**")
    assert bool(operation["security"]) == needs_it_in_open_mode
    assert ({"401", "403"} <= {*operation["responses"]}) == takes_token
    if service != "user":  # whose page alone has something to authorize for
        assert "securitySchemes" not in APPS[service].openapi()["components"]
    closed = BUILD[service](settings_of(CLOSED)).openapi()
    operation = closed["paths"][path][method.lower()]
    assert bool(operation["security"]) == (takes_token and path != "/metrics")
    assert list(closed["components"]["securitySchemes"]) == ["AccessToken"]


@pytest.mark.parametrize("shop", ["closed", "open"], indirect=True)
@every_route
def test_a_route_lets_in_whom_the_table_says(shop: Shop, service: str, route: str) -> None:
    for who, cell in TABLE[route].items():
        counts = shop.is_closed or "**" in cell
        expected = cell.strip("*").replace("yes", LET_IN) if counts else LET_IN
        assert shop.outcome(service, route, who, expected in ("401", "403")) == expected, who
    if not shop.is_closed:  # where a token could matter, a bad one is refused
        bad = shop.clients[service].request(*route.split(" "), headers=bearer("bad"))
        could_matter = set(TABLE[route].values()) != {"yes"} and not route.endswith("/metrics")
        assert (bad.status_code == 401) == could_matter


@closed
@pytest.mark.parametrize(("method", "end"), [("GET", ""), ("POST", "/cancel")])
def test_the_order_of_another_is_as_if_it_did_not_exist(shop: Shop, method: str, end: str) -> None:
    order = shop.order("customer")
    assert order["user_id"] == CUSTOMER.pk
    of_customer = shop.ask("order", method, f"/orders/{order['pk']}{end}", "another customer")
    of_nobody = shop.ask("order", method, f"/orders/{new_pk()}{end}", "another customer")
    assert (of_customer.status_code, of_customer.json()) == (404, of_nobody.json())
    assert of_customer.json()["code"] == "order_not_found"
    assert shop.ask("order", "GET", f"/orders/{order['pk']}", "customer").json() == order


@closed
def test_the_idempotency_key_of_another_is_as_if_it_did_not_exist(shop: Shop) -> None:
    key = new_pk()
    orders = [shop.order(who, key) for who in ("customer", "another customer", "customer")]
    assert orders[0] == orders[2]
    assert (orders[0]["user_id"], orders[1]["user_id"]) == (CUSTOMER.pk, ANOTHER.pk)


@opened
def test_an_order_in_an_open_shop_carries_its_user_and_all_see_it(shop: Shop) -> None:
    anonymous, theirs = shop.order("nobody"), shop.order("customer")
    assert (anonymous["user_id"], theirs["user_id"]) == (None, CUSTOMER.pk)
    for who in ("nobody", "another customer"):
        assert shop.ask("order", "GET", f"/orders/{theirs['pk']}", who).json() == theirs
        assert {anonymous["pk"], theirs["pk"]} <= shop.listed(who)


@closed
def test_the_metrics_token_reads_the_metrics_and_nothing_else(shop: Shop) -> None:
    for client in shop.clients.values():
        assert client.get("/metrics", headers=bearer(METRICS_TOKEN)).status_code == 200
        for wrong in (METRICS_TOKEN[:-1], METRICS_TOKEN + "x", METRICS_TOKEN.upper(), ""):
            answer = client.get("/metrics", headers=bearer(wrong))
            assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    products = shop.clients["product"].post("/products", headers=bearer(METRICS_TOKEN))
    assert products.status_code == 401


def test_nobody_reads_the_metrics_of_a_closed_shop_without_a_metrics_token() -> None:
    environment = {"USE_REDIS": "false", "AUTH_REQUIRED": "true", "JWT_SECRET": SECRET}
    with running("user", environment) as client:
        for headers in (*PEOPLE.values(), bearer("")):
            assert client.get("/metrics", headers=headers).status_code == 403

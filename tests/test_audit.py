"""The audit of `test_connection.py`: what it finds, what it repairs, and when it refuses."""

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

import test_connection
from shopsphere.domain.pks import new_pk
from shopsphere.tools import audit
from tests.load import send
from tests.servers import RedisServer, answering
from tests.shop import Shop

Run = Callable[..., tuple[bool, str]]


@pytest.fixture(scope="module")
def running(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    settings = {"SETTLE_INTERVAL": "0.1", "LOG_LEVEL": "WARNING"}
    settings |= {"USE_REDIS": "required", "REDIS_PORT": str(redis_server.port)}
    with Shop(tmp_path_factory.mktemp("shop"), settings) as shop:
        yield shop.start()


@pytest.fixture
def shop(running: Shop, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """An empty shop, which an audit reads in pages of two."""
    redis_server.client.flushall()
    monkeypatch.setattr(audit, "PAGE", 2)
    return running


@pytest.fixture
def run(shop: Shop, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the audit, with other settings if any; return whether all adds up, and what it prints."""

    def run(*, repair: bool = False, is_sure: bool = True, **changed: str) -> tuple[bool, str]:
        settings = shop.settings().model_copy(update=changed)
        lines = list(test_connection.audit(settings, repair, is_sure))
        asked = capsys.readouterr().out
        return lines[-1].is_good, asked + "".join(f"{line}\n" for line in lines)

    return run


def hold(shop: Shop, product: str, order: str, quantity: int = 0) -> None:
    """Reserve as the order service does, or give back."""
    url = f"{shop.product.url}/products/{product}/reservations/{order}"
    method, body = ("PUT", {"quantity": quantity}) if quantity else ("DELETE", None)
    assert send(method, url, body).status in (201, 204)


def overwrite(server: RedisServer, kind: str, pk: str, **fields: str | int) -> None:
    """Change fields of a record behind the back of the services, which go by its version."""
    key = f"shopsphere:{kind}:{{{pk}}}"
    assert server.client.exists(key), "no such record"
    for field, value in {**fields, "version": new_pk()}.items():
        server.client.hset(key, field, str(value))


def test_a_shop_with_all_kinds_of_orders_adds_up(shop: Shop, run: Run) -> None:
    *kept, deleted = products = [shop.new_product(10) for _ in range(5)]
    for product in products:
        for _ in range(3):
            shop.placed(product, 1)
        assert shop.cancel(shop.placed(product, 2)).status == 200
        assert shop.ship(shop.placed(product, 3)).status == 200
    basket = dict.fromkeys(kept[:3], 1)
    for end in (shop.order_status, shop.cancel, shop.ship):
        end(str(shop.place_basket(basket).body["pk"]))
    assert shop.place(kept[0], 99).status == 400
    assert shop.delete(deleted).status == 204
    text = "5 products and 28 orders: the stock adds up"
    assert run() == (True, f"audit            ok       {text}\n")


def test_a_reservation_without_an_order_is_named_and_repaired(shop: Shop, run: Run) -> None:
    product, deleted, order = shop.new_product(10), shop.new_product(10), new_pk()
    for each in (product, deleted):
        shop.placed(each, 3)
        hold(shop, each, order, 2)
    assert shop.delete(deleted).status == 204
    adds_up, printed = run()
    assert not adds_up
    assert printed.splitlines() == [
        f"audit            FAILED   product {each}: 2 units held for nonexistent order {order}"
        for each in (product, deleted)
    ]
    adds_up, printed = run(repair=True)
    assert adds_up
    assert printed.endswith("the stock adds up\n")
    assert shop.stock(product) == shop.stock(deleted) == (10, 7, 3, 0)


def test_a_placed_order_without_a_reservation_is_named_and_stays(shop: Shop, run: Run) -> None:
    product, other = shop.new_product(10), shop.new_product(10)
    order = str(shop.place_basket({other: 1, product: 2}).body["pk"])
    hold(shop, product, order, 0)
    adds_up, printed = run(repair=True)
    assert not adds_up
    assert f"product {other}" not in printed
    assert f"product {product}: 0 units held for PLACED order {order}, not 2\n" in printed
    assert "repair           FAILED   no automatic repair: cancel the PLACED orders" in printed


def test_an_order_of_a_product_that_is_lost_is_named(
    shop: Shop, run: Run, redis_server: RedisServer
) -> None:
    product = shop.new_product(10)
    order = shop.placed(product, 2)
    redis_server.client.delete(*redis_server.client.scan_iter(f"*{{{product}}}*"))
    assert f"product {product}: 0 units held for PLACED order {order}, not 2\n" in run()[1]


def test_what_is_off_only_at_the_first_look_was_under_way(shop: Shop) -> None:
    product, ended, begun = shop.new_product(10), new_pk(), new_pk()
    hold(shop, product, ended, 2)

    def go_on() -> None:
        hold(shop, product, ended, 0)
        hold(shop, product, begun, 2)

    with closing(audit.Shop(shop.settings())) as asked:
        assert audit.compare(asked, go_on)[0] == []


@pytest.mark.parametrize(
    ("field", "old", "new", "text", "stock"),
    [
        ("status", "PLACED", "CANCELLED", "2 units held for CANCELLED order {}\n", (10, 10, 0, 0)),
        ("status", "PLACED", "SHIPPED", "2 units held for SHIPPED order {}\n", (10, 8, 0, 2)),
        ("items_json", ",2,", ",5,", "2 units held for PLACED order {}, not 5\n", (10, 8, 2, 0)),
    ],
)
def test_an_order_that_changed_unheard_is_named_and_told_again_by_a_repair(
    shop: Shop, run: Run, redis_server: RedisServer, field: str, old: str, new: str, text: str,
    stock: tuple[int, int, int, int],
) -> None:  # fmt: skip
    product = shop.new_product(10)
    order = shop.placed(product, 2)
    before = str(redis_server.client.hget(f"shopsphere:order:{{{order}}}", field))
    overwrite(redis_server, "order", order, **{field: before.replace(old, new)})
    assert text.format(order) in run()[1]
    assert run(repair=True)[0] == (field == "status")
    assert shop.stock(product) == stock


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"received": 13}, "does not add up: received 13, available 5, reserved 3, shipped 2"),
        ({"available": -5, "received": 0}, "up: received 0, available -5, reserved 3, shipped 2"),
        ({"reserved": 6, "received": 13}, "reserved is 6, but its reservations hold 3"),
        ({"shipped": 5, "received": 13}, "shipped is 5, but its SHIPPED orders contain 2"),
        ({"shipped": 1, "received": 9}, "shipped is 1, but its SHIPPED orders contain 2"),
    ],
)
def test_a_figure_that_is_off_is_named_with_by_how_much(
    shop: Shop, run: Run, redis_server: RedisServer, changed: dict[str, int], text: str
) -> None:
    product = shop.new_product(10)
    shop.placed(product, 3)
    assert shop.ship(shop.placed(product, 2)).status == 200
    overwrite(redis_server, "product", product, **changed)
    adds_up, printed = run(repair=True)
    assert not adds_up
    assert f"{text}\nrepair           FAILED   no automatic repair: " in printed


def test_a_repair_asks_first(shop: Shop, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    hold(shop, shop.new_product(10), new_pk(), 2)
    for typed, agrees in (("n\n", False), ("\n", False), ("", False), ("y\n", True)):
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        adds_up, printed = run(repair=True, is_sure=False)
        assert "Release 2 units held for 1 nonexistent order? [y/N]" in printed
        assert adds_up == agrees


def test_what_cannot_be_compared_is_not(run: Run) -> None:
    with answering(b"[1") as url:
        adds_up, printed = run(repair=True, order_service_url=url)
    assert not adds_up
    assert printed.startswith("audit            FAILED   ")
    assert "responds with 200, but not like a ShopSphere service" in printed
    assert f"FAILED   {url}/orders does not respond" in run(order_service_url=url)[1]

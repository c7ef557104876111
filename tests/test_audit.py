"""The audit of `test_connection.py`: what it finds, what it has mended, and when it refuses."""

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from pydantic import SecretStr

import test_connection
from shopsphere import audit
from shopsphere.domain.pks import new_pk
from shopsphere.settings import Settings
from tests.load import send
from tests.servers import ROOT, RedisServer, Service, answering, free_port
from tests.shop import Shop

SETTLING = {"ORDER_TIMEOUT": "2", "SETTLE_AFTER": "0.2", "SETTLE_INTERVAL": "0.1"}
FIGURES = ("received", "available", "reserved", "shipped")
Run = Callable[..., tuple[bool, str]]
Raw = Callable[[str, str, str, object], None]


@pytest.fixture(scope="module", params=["memory", "redis"])
def shop(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    """A shop on each storage; a test that leaves it inexact mends it."""
    environment = {"USE_REDIS": "false", "LOG_LEVEL": "WARNING", **SETTLING}
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        server.client.flushall()
        environment |= {"USE_REDIS": "required", "REDIS_PORT": str(server.port)}
    shop = Shop(tmp_path_factory.mktemp("shop"), environment)
    try:
        yield shop.start()
    finally:
        shop.stop()


on_redis = pytest.mark.parametrize("shop", ["redis"], indirect=True)
in_memory = pytest.mark.parametrize("shop", ["memory"], indirect=True)


@pytest.fixture
def settings(shop: Shop) -> Settings:
    return Settings(
        product_service_url=shop.product.url,
        order_service_url=shop.order.url,
        settle_after=0.2,
        settle_interval=0.1,
    )


@pytest.fixture
def run(settings: Settings, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the audit; return whether the shop is exact, and what was printed."""

    def run(*, repair: bool = False, is_sure: bool = True) -> tuple[bool, str]:
        is_exact = test_connection.audit(settings, repair, is_sure)
        return is_exact, capsys.readouterr().out

    return run


@pytest.fixture
def raw(redis_server: RedisServer) -> Raw:
    """Change a field of a record behind the back of the services, which go by its version."""

    def change(kind: str, pk: str, field: str, value: object) -> None:
        key = f"shopsphere:{kind}:{{{pk}}}"
        assert redis_server.client.exists(key), "no such record"
        redis_server.client.hset(key, mapping={field: str(value), "version": new_pk()})

    return change


def hold(shop: Shop, product: str, order: str, quantity: int) -> None:
    """Reserve as the order service does."""
    url = f"{shop.product.url}/products/{product}/reservations/{order}"
    assert send("PUT", url, {"quantity": quantity}).status == 201


def give_back(shop: Shop, product: str, order: str) -> None:
    url = f"{shop.product.url}/products/{product}/reservations/{order}"
    assert send("DELETE", url).status == 204


def test_a_shop_with_all_kinds_of_orders_is_exact(shop: Shop, run: Run) -> None:
    kept, deleted = shop.new_product(10), shop.new_product(10)
    for product in (kept, deleted):
        shop.placed(product, 1)
        assert shop.cancel(shop.placed(product, 2)).status == 200
        assert shop.ship(shop.placed(product, 3)).status == 200
    assert shop.place(kept, 99).status == 400
    assert shop.delete(deleted).status == 204
    is_exact, printed = run()
    assert is_exact
    assert printed.startswith("audit            ok       ")
    assert printed.endswith("orders: the stock adds up\n")


def test_a_reservation_without_an_order_is_named_and_repaired(shop: Shop, run: Run) -> None:
    product, order = shop.new_product(10), new_pk()
    shop.placed(product, 3)
    hold(shop, product, order, 2)
    is_exact, printed = run()
    assert not is_exact
    assert printed.splitlines() == [
        f"audit            FAILED   product {product}: {text}"
        for text in (
            "reserved is 5, 2 too many for its PLACED orders",
            f"the reservation of order {order} (2) belongs to no PLACED order",
        )
    ]
    is_exact, printed = run(repair=True)
    assert is_exact
    assert (
        f"settled          ok       order {order} was never placed, and holds nothing\n" in printed
    )
    assert printed.endswith("the stock adds up\n")
    assert shop.stock(product) == (10, 7, 3, 0)


def test_a_placed_order_without_a_reservation_is_named_and_stays(shop: Shop, run: Run) -> None:
    product = shop.new_product(10)
    order = shop.placed(product, 2)
    give_back(shop, product, order)
    is_exact, printed = run(repair=True)
    assert not is_exact
    assert f"product {product}: reserved is 0, 2 too few for its PLACED orders\n" in printed
    assert f"the PLACED order {order} (2) has no reservation: cancel it\n" in printed
    assert "settled" not in printed  # it is placed, and stays so
    assert shop.cancel(order).status == 200
    assert run()[0]


def test_a_deleted_product_is_audited_as_well(shop: Shop, run: Run) -> None:
    product, order = shop.new_product(10), new_pk()
    shop.placed(product, 1)
    hold(shop, product, order, 2)
    assert shop.delete(product).status == 204
    is_exact, printed = run()
    assert not is_exact
    assert f"the reservation of order {order} (2) belongs to no PLACED order" in printed
    assert run(repair=True)[0]


def test_every_page_is_read(shop: Shop, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "PAGE", 2)
    products = [shop.new_product(10) for _ in range(5)]
    placed = [shop.placed(products[0]) for _ in range(5)]
    assert run()[0]
    last = new_pk()
    hold(shop, products[0], last, 1)
    hold(shop, products[-1], last, 1)
    give_back(shop, products[0], placed[-1])
    printed = run()[1]
    assert f"{products[0]}: the reservation of order {last} (1)" in printed
    assert (
        f"{products[0]}: the PLACED order {placed[-1]} (1) has no reservation: cancel it" in printed
    )
    assert "reserved is 5," not in printed  # one too many and one too few
    assert f"{products[-1]}: the reservation of order {last} (1)" in printed
    assert shop.cancel(placed[-1]).status == 200
    assert run(repair=True)[0]


def test_what_is_off_only_at_the_first_look_was_under_way(shop: Shop, settings: Settings) -> None:
    product, ended, begun = shop.new_product(10), new_pk(), new_pk()
    hold(shop, product, ended, 2)

    def go_on() -> None:
        give_back(shop, product, ended)
        hold(shop, product, begun, 2)

    with closing(audit.Shop(settings)) as asked:
        assert list(audit.Audit(asked, go_on).findings()) == []
    give_back(shop, product, begun)


@on_redis
def test_an_order_of_another_quantity_than_its_reservation_is_named(
    shop: Shop, run: Run, raw: Raw, redis_server: RedisServer
) -> None:
    product = shop.new_product(10)
    order = shop.placed(product, 2)
    items = str(redis_server.client.hget(f"shopsphere:order:{{{order}}}", "items_json"))
    raw("order", order, "items_json", items.replace(",2,", ",5,"))
    is_exact, printed = run()
    assert not is_exact
    assert f"product {product}: reserved is 2, 3 too few for its PLACED orders\n" in printed
    assert f"the PLACED order {order} is of 5, its reservation of 2\n" in printed
    raw("order", order, "items_json", items)
    assert run()[0]


@on_redis
@pytest.mark.parametrize(
    ("status", "stock"), [("CANCELLED", (10, 10, 0, 0)), ("SHIPPED", (10, 8, 0, 2))]
)
def test_an_order_that_ended_unheard_is_told_again_by_a_repair(
    shop: Shop, run: Run, raw: Raw, status: str, stock: tuple[int, int, int, int]
) -> None:
    product = shop.new_product(10)
    order = shop.placed(product, 2)
    raw("order", order, "status", status)
    assert not run()[0]
    is_exact, printed = run(repair=True)
    assert is_exact
    assert f"order {order} is {status.lower()}\n" in printed
    assert shop.stock(product) == stock


@on_redis
@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("received", "received is 13, 3 too many for available 5 + reserved 3 + shipped 2"),
        ("available", "received is 10, 3 too few for available 8 + reserved 3 + shipped 2"),
        ("reserved", "reserved is 6, 3 too many for its PLACED orders"),
        ("shipped", "shipped is 5, 3 too many for its SHIPPED orders"),
    ],
)
def test_a_figure_that_is_off_is_named_with_by_how_much(
    shop: Shop, run: Run, raw: Raw, field: str, text: str
) -> None:
    product = shop.new_product(10)
    shop.placed(product, 3)
    assert shop.ship(shop.placed(product, 2)).status == 200
    figures = dict(zip(FIGURES, shop.stock(product), strict=True))
    raw("product", product, field, figures[field] + 3)
    is_exact, printed = run(repair=True)
    assert not is_exact
    assert f"product {product}: {text}\n" in printed
    assert "settled" not in printed  # there is no order to settle
    raw("product", product, field, figures[field])
    assert run()[0]


@on_redis
def test_a_figure_below_zero_is_named(shop: Shop, run: Run, raw: Raw) -> None:
    product = shop.new_product(0)
    raw("product", product, "available", -1)
    raw("product", product, "received", -1)
    assert "available is -1, reserved 0, shipped 0: one is below 0" in run()[1]
    raw("product", product, "available", 0)
    raw("product", product, "received", 0)


@in_memory
@pytest.mark.parametrize("typed", ["n\n", "\n", ""])
def test_a_repair_asks_first(
    shop: Shop, run: Run, monkeypatch: pytest.MonkeyPatch, typed: str
) -> None:
    product, order = shop.new_product(10), new_pk()
    hold(shop, product, order, 2)
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    is_exact, printed = run(repair=True, is_sure=False)
    assert not is_exact
    assert "Have the order service settle 1 order? [y/N]" in printed
    assert "settled" not in printed
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert run(repair=True, is_sure=False)[0]


@in_memory
def test_an_audit_of_two_storages_is_refused(
    shop: Shop,
    redis_server: RedisServer,
    settings: Settings,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    environment = {"USE_REDIS": "required", "REDIS_PORT": str(redis_server.port)}
    elsewhere = Service("order", tmp_path / "order.log", 0, **environment).start()
    try:
        mixed = settings.model_copy(update={"order_service_url": elsewhere.url})
        assert not test_connection.audit(mixed, wants_repair=True, is_sure=True)
    finally:
        elsewhere.stop()
    assert capsys.readouterr().out.startswith(
        "audit            FAILED   the product service is on memory, the order service on redis"
    )


@in_memory
def test_an_audit_without_a_service_says_which_one(
    shop: Shop, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    lonely = settings.model_copy(update={"order_service_url": nowhere})
    assert not test_connection.audit(lonely, wants_repair=False, is_sure=False)
    assert f"FAILED   {nowhere}/ does not answer" in capsys.readouterr().out


def test_nonsense_in_the_place_of_a_page_is_said_to_be_no_service_of_ours() -> None:
    refused = pytest.raises(audit.AuditImpossible, match="is no service of ours")
    with answering(b"<html>") as url, closing(audit.Shop(Settings())) as asked, refused:
        list(asked.pages(f"{url}/orders"))


@in_memory
def test_the_exit_status_tells_whether_the_stock_adds_up(shop: Shop, tmp_path: Path) -> None:
    user = Service("user", tmp_path / "user.log", 0, USE_REDIS="false").start()
    environment = {
        **os.environ, **SETTLING, "USE_REDIS": "false", "USER_SERVICE_URL": user.url,
        "PRODUCT_SERVICE_URL": shop.product.url, "ORDER_SERVICE_URL": shop.order.url,
    }  # fmt: skip

    def status(*arguments: str) -> int:
        command = [sys.executable, "test_connection.py", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True)
        told = done.stderr.splitlines()  # no progress bar where there is no terminal
        assert all(line.startswith(b"Something is off, or under way: looking") for line in told)
        return done.returncode

    try:
        assert status("--audit") == 0
        hold(shop, shop.new_product(10), new_pk(), 2)
        assert status() == 0
        assert status("--audit") == 1
        assert status("--audit", "--repair", "--yes") == 0
    finally:
        user.stop()


def test_where_tokens_are_required_the_administrator_signs_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    admin = {"ADMIN_EMAIL": "admin@example.com", "ADMIN_PASSWORD": "securepass123"}
    environment = {
        "USE_REDIS": "false", "LOG_LEVEL": "WARNING", "AUTH_REQUIRED": "true",
        "JWT_SECRET": "a secret of our own, of 32 bytes or more", **admin,
    }  # fmt: skip
    shop = Shop(tmp_path, environment)
    user = Service("user", tmp_path / "user.log", 0, **environment)
    shop.services.append(user)
    try:
        shop.start()
        settings = Settings(
            product_service_url=shop.product.url,
            order_service_url=shop.order.url,
            user_service_url=user.url,
            jwt_secret=SecretStr(environment["JWT_SECRET"]),
            admin_email=admin["ADMIN_EMAIL"],
            admin_password=SecretStr(admin["ADMIN_PASSWORD"]),
        )
        assert test_connection.audit(settings, wants_repair=False, is_sure=False)
        assert "0 products and 0 orders: the stock adds up" in capsys.readouterr().out
        nobody = settings.model_copy(update={"admin_email": ""})
        assert not test_connection.audit(nobody, wants_repair=False, is_sure=False)
        assert "ADMIN_EMAIL and ADMIN_PASSWORD have to be set here" in capsys.readouterr().out
    finally:
        shop.stop()

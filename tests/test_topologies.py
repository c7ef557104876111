"""ShopSphere on every shape of Redis: a Cluster, Sentinels, TLS, a Unix socket, several workers."""

import asyncio
import re
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from random import random
from threading import Barrier, Event
from typing import Any

import pytest
import requests
import uvloop
from pydantic import SecretStr
from redis.crc import key_slot

import redis_clients
import test_connection
from redis_db import RedisRecords
from shopsphere.catalogue.products import Products
from shopsphere.domain.errors import CannotStart, StoreUnavailable
from shopsphere.domain.pks import new_pk
from shopsphere.settings import Settings
from tests.redis_groups import (
    HOST,
    Certificates,
    RedisCluster,
    TLSRedis,
    WatchedRedis,
    tls_redis_executable,
)
from tests.servers import RedisServer, Service, Trio, free_port, redis_client, wait_until

SO_SLOW_MACHINES_PASS = {"ORDER_TIMEOUT": "25", "PRODUCT_SERVICE_TIMEOUT": "20"}
SETTLES_SOON = {"SETTLE_AFTER": "1.5", "SETTLE_INTERVAL": "0.2", "ORDER_TIMEOUT": "6"}
ACCOUNT = {"email": "ada@example.com", "password": "correct horse"}


# What a customer does, and what the books say


def create(product: Service, name: str = "Lamp", quantity: int = 1000) -> str:
    answer = product.post("/products", {"name": name, "price": 2.5, "quantity": quantity})
    assert answer.status_code == 201, answer.text
    pk: str = answer.json()["pk"]
    return pk


def buy(order: Service, product_pk: str, quantity: int = 1, key: str = "") -> requests.Response:
    """Order in a session of its own: any thread may."""
    headers = {"Idempotency-Key": key} if key else {}
    body = {"product_id": product_pk, "quantity": quantity}
    return requests.post(f"{order.url}/order", json=body, headers=headers, timeout=60)


def race(order: Service, product_pk: str, customers: int) -> Counter[int]:
    """Have that many customers order one unit at the same moment; count the answers."""
    together = Barrier(customers)

    def customer(_: int) -> int:
        together.wait(30)
        return buy(order, product_pk).status_code

    with ThreadPoolExecutor(customers) as crowd:
        return Counter(crowd.map(customer, range(customers)))


def stock(product: Service, pk: str) -> dict[str, int]:
    answer = product.get(f"/products/{pk}/stock")
    assert answer.status_code == 200, answer.text
    figures: dict[str, int] = answer.json()
    kept = figures["available"] + figures["reserved"] + figures["shipped"]
    assert figures["received"] == kept
    return figures


def assert_the_books_add_up(product: Service, order: Service, *pks: str) -> None:
    """Compare, order by order, what each product holds with the orders that there are."""

    def are_settled() -> bool:
        return "orders_unsettled 0.0\n" in order.get("/metrics").text

    def add_up() -> bool:
        orders = order.get("/orders").json()
        return all(
            adds_up(product, pk, [one for one in orders if one["product_id"] == pk]) for pk in pks
        )

    wait_until(lambda: are_settled() and add_up(), 30, "all is settled and the books add up")


def adds_up(product: Service, pk: str, orders: list[dict[str, Any]]) -> bool:
    placed = {one["pk"]: one["quantity"] for one in orders if one["status"] == "PLACED"}
    shipped = sum(one["quantity"] for one in orders if one["status"] == "SHIPPED")
    live = product.get(f"/products/{pk}/reservations").json()
    figures = stock(product, pk)
    return (
        {one["order_id"]: one["quantity"] for one in live} == placed
        and figures["reserved"] == sum(placed.values())
        and figures["shipped"] == shipped
    )


class Customers:
    """Customers who order one unit after the other, until the context ends."""

    def __init__(self, order: Service, *product_pks: str) -> None:
        self._order = order
        self._product_pks = product_pks
        self._stop = Event()
        self._crowd = ThreadPoolExecutor(2 * len(product_pks))
        self.answers: list[tuple[str, requests.Response]] = []

    def __enter__(self) -> "Customers":
        for pk in 2 * self._product_pks:
            self._crowd.submit(self._order_on, pk)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._crowd.shutdown()

    def _order_on(self, pk: str) -> None:
        while not self._stop.is_set():
            self.answers.append((pk, buy(self._order, pk)))

    def statuses(self, pk: str = "") -> Counter[int]:
        answers = list(self.answers)
        return Counter(answer.status_code for of, answer in answers if pk in of)

    def wait_for(self, status: int, times: int = 3, pk: str = "") -> None:
        """Return when so many further answers with this status have come."""
        enough = self.statuses(pk)[status] + times
        wait_until(lambda: self.statuses(pk)[status] >= enough, 30, f"{times} more {status}")

    def placed(self) -> set[str]:
        """Return the orders that were acknowledged."""
        return {answer.json()["pk"] for _, answer in self.answers if answer.status_code == 201}


# Redis Cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    nodes = RedisCluster(tmp_path_factory.mktemp("cluster"))
    yield nodes
    nodes.stop()


def what_the_tool_adds_to(url: str) -> list[str]:
    """Fail unless `test_connection.py` says how Redis is at this URL; return what else it says."""
    settings = Settings(use_redis="required", redis_url=SecretStr(url))
    redis, persistence, eviction, *more = test_connection.redis_lines(settings)
    assert re.search(r", version \d+\.\d+\.\d+, round trip ", redis.text)
    assert (redis.state, persistence.state, eviction.state) == ("ok", "ok", "ok")
    assert persistence.text == "appendonly is on"
    return [line.text for line in more]


def test_the_tool_finds_a_cluster(cluster: RedisCluster) -> None:
    assert what_the_tool_adds_to(cluster.url) == []


def test_the_tool_finds_the_master_by_its_sentinels(watched_redis: WatchedRedis) -> None:
    [warning] = what_the_tool_adds_to(watched_redis.url)
    assert "min-replicas-to-write is 0" in warning


@pytest.fixture(scope="module")
def shop_on_cluster(
    cluster: RedisCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Trio]:
    trio = Trio(
        tmp_path_factory.mktemp("shop"),
        USE_REDIS="required",
        REDIS_URL=cluster.url,
        **SO_SLOW_MACHINES_PASS,
    )
    try:
        yield trio.start()
    finally:
        trio.stop()


def test_the_whole_story_is_told_on_a_cluster(shop_on_cluster: Trio) -> None:
    user, product, order = shop_on_cluster.user, shop_on_cluster.product, shop_on_cluster.order
    assert user.post("/register", ACCOUNT).status_code == 201
    assert user.post("/register", ACCOUNT).json()["code"] == "email_taken"
    token = user.post("/login", ACCOUNT).json()["access_token"]
    bearer = {"Authorization": f"Bearer {token}"}
    assert user.get("/me", headers=bearer).json()["email"] == ACCOUNT["email"]

    names = ["Desk Lamp", "Lampshade", "Chair", "Floor lamp", "Table"]
    pks = [create(product, name, 10) for name in names]
    listed = [one["pk"] for one in product.get("/products").json()]
    assert [pk for pk in listed if pk in pks] == pks
    assert pages(product, "/products") == listed
    found = {one["name"] for one in product.get("/products/search?name=LAMP").json()}
    assert found == {"Desk Lamp", "Lampshade", "Floor lamp"}
    renamed = product.request("PATCH", f"/products/{pks[2]}", json={"name": "Lamp chair"})
    assert renamed.status_code == 200
    found = {one["pk"] for one in product.get("/products/search?name=lamp").json()}
    assert found == {pks[0], pks[1], pks[2], pks[3]}
    assert product.post(f"/products/{pks[4]}/stock", {"change": 5}).json()["quantity"] == 15
    assert product.request("DELETE", f"/products/{pks[4]}").status_code == 204
    assert product.get(f"/products/{pks[4]}").status_code == 404

    first, again = buy(order, pks[0], 4, key="one"), buy(order, pks[0], 4, key="one")
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json()
    assert again.headers["Idempotent-Replayed"] == "true"
    assert buy(order, pks[0], 7).json()["available"] == 6
    second, third = buy(order, pks[0], 2).json()["pk"], buy(order, pks[1], 3).json()["pk"]
    assert order.post(f"/orders/{second}/cancel").json()["status"] == "CANCELLED"
    assert order.post(f"/orders/{third}/ship").json()["status"] == "SHIPPED"
    assert order.post(f"/orders/{third}/cancel").json()["code"] == "order_is_shipped"
    settled = order.post(f"/orders/{second}/settle", {"product_id": pks[0]}).json()
    assert settled["outcome"] == "cancelled"
    assert order.get(f"/orders/{third}").json()["product_name"] == "Lampshade"
    mine = [first.json()["pk"], second, third]
    assert [pk for pk in pages(order, "/orders") if pk in mine] == mine
    assert stock(product, pks[0]) == {"received": 10, "available": 6, "reserved": 4, "shipped": 0}
    assert_the_books_add_up(product, order, *pks)


def pages(service: Service, path: str) -> list[str]:
    """Walk through a list two by two."""
    pks: list[str] = []
    url = f"{path}?limit=2"
    while url:
        page = service.get(url)
        pks += [one["pk"] for one in page.json()]
        url = page.links.get("next", {}).get("url", "").removeprefix(service.url)
    return pks


def test_a_race_of_two_hundred_for_a_hundred_units_is_exact_on_a_cluster(
    shop_on_cluster: Trio,
) -> None:
    pk = create(shop_on_cluster.product, quantity=100)
    assert race(shop_on_cluster.order, pk, 200) == {201: 100, 400: 100}
    expected = {"received": 100, "available": 0, "reserved": 100, "shipped": 0}
    assert stock(shop_on_cluster.product, pk) == expected
    assert_the_books_add_up(shop_on_cluster.product, shop_on_cluster.order, pk)


def test_a_lost_cluster_node_stops_only_what_lives_there_until_it_is_back(
    cluster: RedisCluster, shop_on_cluster: Trio, tmp_path: Path
) -> None:
    product = shop_on_cluster.product
    order = settling_soon(tmp_path, cluster.url, product).start()
    there, elsewhere = products_on_two_nodes(cluster, product)
    try:
        with Customers(order, there, elsewhere) as customers:
            customers.wait_for(201, pk=there)
            node = cluster.node_of(product_key(there))
            node.stop(signal.SIGKILL)
            customers.wait_for(503, pk=there)
            assert product.get(f"/products/{there}").status_code == 503
            for _ in range(20):
                assert product.get(f"/products/{elsewhere}").status_code == 200
            customers.wait_for(201, pk=elsewhere)
            node.start()
            wait_until(cluster.is_whole, 30, "the cluster is whole again")
            customers.wait_for(201, pk=there)
        assert set(customers.statuses()) == {201, 503}
        assert_the_books_add_up(product, order, there, elsewhere)
        seen = {one["pk"] for one in order.get("/orders").json()}
        assert customers.placed() <= seen
    finally:
        order.stop()


def settling_soon(folder: Path, redis_url: str, product: Service) -> Service:
    """Return an order service that settles while a test can wait for it."""
    environment = {"USE_REDIS": "required", "REDIS_URL": redis_url, **SETTLES_SOON}
    environment["PRODUCT_SERVICE_URL"] = product.url
    return Service("order", folder / "order.log", 0, **environment)


def test_a_lost_node_is_nothing_but_unavailable_and_the_others_serve_on(
    cluster: RedisCluster,
) -> None:
    settings = Settings(use_redis="required", redis_url=SecretStr(cluster.url))

    async def lose_a_node() -> None:
        client = await redis_clients.connect(settings)
        products = Products(RedisRecords(client, "shopsphere"))
        pks = [(await products.create("Lamp", 100, 100)).pk for _ in range(30)]
        lost = cluster.node_of(product_key(pks[0]))
        lives = {pk: cluster.node_of(product_key(pk)) is not lost for pk in pks}
        outcomes: Counter[str] = Counter()

        async def read_on(pk: str) -> None:
            while outcomes["lost"] < 150:
                try:
                    await products.get(pk)
                    await products.release(pk, new_pk())
                    outcomes["served"] += 1
                except StoreUnavailable:
                    outcomes["interrupted" if lives[pk] else "lost"] += 1

        async def list_on() -> None:
            while outcomes["lost"] < 150:
                try:  # some are given up, as by ORDER_TIMEOUT
                    await asyncio.wait_for(products.page(None, 20), 0.05 * random())
                except (StoreUnavailable, TimeoutError):
                    outcomes["given up"] += 1

        lost.stop(signal.SIGKILL)
        try:
            many = [*map(read_on, lives), *(list_on() for _ in range(10))]
            ends = await asyncio.gather(*many, return_exceptions=True)
        finally:
            lost.start()
        living = next(pk for pk in lives if lives[pk])
        crowd = [products.release(living, new_pk()) for _ in range(500)]
        ends += await asyncio.gather(*crowd, return_exceptions=True)
        await client.close_all()
        assert Counter(map(repr, ends)) == {"None": len(many) + len(crowd)}
        assert outcomes["served"] > outcomes["interrupted"]

    uvloop.run(lose_a_node())
    wait_until(cluster.is_whole, 30, "the cluster is whole again")


def test_a_cluster_that_is_down_is_503_to_all_until_it_is_whole(
    cluster: RedisCluster, shop_on_cluster: Trio
) -> None:
    product, order = shop_on_cluster.product, shop_on_cluster.order
    there, elsewhere = products_on_two_nodes(cluster, product)
    node = cluster.node_of(product_key(there))
    others = [other for other in cluster.nodes if other is not node]
    for other in others:
        other.client.config_set("cluster-require-full-coverage", "yes")
    node.stop(signal.SIGKILL)
    try:
        wait_until(lambda: product.get(f"/products/{elsewhere}").status_code == 503)
        assert buy(order, elsewhere).status_code == 503
        assert product.get("/products").status_code == 503
        assert product.get("/ready").status_code == 503
        assert product.get("/").status_code == 200
    finally:
        node.start()
        for other in others:
            other.client.config_set("cluster-require-full-coverage", "no")
    wait_until(cluster.is_whole, 30, "the cluster is whole again")
    wait_until(lambda: product.get("/ready").status_code == 200)
    assert buy(order, elsewhere).status_code == 201
    assert buy(order, there).status_code == 201


def test_a_slot_that_moves_to_a_new_node_is_never_500(
    cluster: RedisCluster, shop_on_cluster: Trio
) -> None:
    product = shop_on_cluster.product
    here = create(product)
    slot, source = cluster.slot_of(product_key(here)), cluster.node_of(product_key(here))
    target = cluster.add_node()
    wait_until(cluster.is_whole, 30, "all know the new node")
    target.client.cluster("setslot", slot, "importing", source.client.cluster("myid"))
    source.client.cluster("setslot", slot, "migrating", target.client.cluster("myid"))

    assert product.get(f"/products/{here}").status_code == 200
    assert buy(shop_on_cluster.order, here).status_code == 503
    missing = next(pk for pk in iter(new_pk, "") if key_slot(product_key(pk).encode()) == slot)
    assert product.get(f"/products/{missing}").status_code == 503

    keys = source.client.execute_command("CLUSTER GETKEYSINSLOT", slot, 100)
    source.client.execute_command("MIGRATE", HOST, target.port, "", 0, 5000, "KEYS", *keys)
    for node in cluster.nodes:
        node.client.cluster("setslot", slot, "node", target.client.cluster("myid"))
    assert product.get(f"/products/{here}").status_code == 200
    assert buy(shop_on_cluster.order, here).status_code == 201


@pytest.mark.parametrize("is_directory_first", [True, False])
def test_a_search_misses_no_product_while_the_index_moves_key_by_key(
    cluster: RedisCluster, is_directory_first: bool
) -> None:
    settings = Settings(use_redis="required", redis_url=SecretStr(cluster.url))
    prefix = f"moved-{is_directory_first}"
    directory = f"{prefix}:names:{{names}}"
    slot, source = cluster.slot_of(directory), cluster.node_of(directory)
    target = next(node for node in cluster.nodes if node is not source)

    async def move_the_index(client: redis_clients.ShopRedis) -> None:
        products = Products(RedisRecords(client, prefix))
        there: list[str] = []
        outcomes: Counter[str] = Counter()

        async def add() -> None:
            there.append((await products.create("A lamp of steel and oak", 100, 100)).pk)

        async def rename() -> None:
            await products.update(there[0], f"A lamp of {len(there)} parts", None)

        async def find() -> None:
            page = await products.search_page("lamp", None, 1000)
            assert sorted(product.pk for product in page.items) == there

        for _ in range(30):
            await add()
        target.client.cluster("setslot", slot, "importing", source.client.cluster("myid"))
        source.client.cluster("setslot", slot, "migrating", target.client.cluster("myid"))
        while keys := source.client.execute_command("CLUSTER GETKEYSINSLOT", slot, 100):
            key = min(keys, key=lambda key: (key == directory) is not is_directory_first)
            source.client.execute_command("MIGRATE", HOST, target.port, key, 0, 5000)
            for use in (add, rename, find):
                try:
                    await use()
                    outcomes["served"] += 1
                except StoreUnavailable:
                    outcomes["refused"] += 1
        for node in cluster.nodes:
            node.client.cluster("setslot", slot, "node", target.client.cluster("myid"))
        assert outcomes["refused"]  # redis-py 8.1 may not find a key that has moved before its slot
        await add()
        await rename()
        await find()

    async def connect_and_move() -> None:
        client = await redis_clients.connect(settings)
        try:
            await move_the_index(client)
        finally:
            await client.close_all()

    uvloop.run(connect_and_move())


def product_key(pk: str) -> str:
    return f"shopsphere:product:{{{pk}}}"


def products_on_two_nodes(cluster: RedisCluster, product: Service) -> tuple[str, str]:
    """Return two products; on the node of the first is nothing that every order needs."""
    every_order_needs = ("shopsphere:notes:{notes}", "shopsphere:list:{orders}:all")
    nodes = {cluster.node_of(key).port for key in every_order_needs}
    there = elsewhere = ""
    while not (there and elsewhere):
        pk = create(product)
        if cluster.node_of(product_key(pk)).port in nodes:
            elsewhere = pk
        else:
            there = pk
    return there, elsewhere


# Sentinel


@pytest.fixture(scope="module")
def running_watched_redis(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[WatchedRedis]:
    servers = WatchedRedis(tmp_path_factory.mktemp("sentinel"))
    yield servers
    servers.stop()


@pytest.fixture
def watched_redis(running_watched_redis: WatchedRedis) -> WatchedRedis:
    """Master, replica and Sentinels, all up."""
    running_watched_redis.heal()
    return running_watched_redis


@pytest.fixture(scope="module")
def shop_on_sentinel(
    running_watched_redis: WatchedRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Service, Service]]:
    """A product and an order service, which the tests of failovers never restart."""
    folder, url = tmp_path_factory.mktemp("shop"), running_watched_redis.url
    product = Service("product", folder / "product.log", USE_REDIS="required", REDIS_URL=url)
    order = settling_soon(folder, url, product)
    try:
        yield product.start(), order.start()
    finally:
        order.stop()
        product.stop()


def test_orders_go_on_by_themselves_after_a_failover(
    watched_redis: WatchedRedis,
    shop_on_sentinel: tuple[Service, Service],
    record_property: Callable[[str, object], None],
) -> None:
    product, order = shop_on_sentinel
    pk = create(product)
    with Customers(order, pk) as customers:
        customers.wait_for(201, 10)
        watched_redis.fail_over()
        customers.wait_for(201, 10)
    assert set(customers.statuses()) == {201, 503}
    assert_the_books_add_up(product, order, pk)
    placed = customers.placed()
    lost = placed - {one["pk"] for one in order.get("/orders").json()}
    record_property("orders acknowledged", len(placed))
    record_property("orders lost", len(lost))


def test_a_failover_takes_back_exactly_what_the_replica_had_not_heard(
    watched_redis: WatchedRedis, shop_on_sentinel: tuple[Service, Service]
) -> None:
    product, order = shop_on_sentinel
    pk = create(product, quantity=10)
    heard = [buy(order, pk).json()["pk"] for _ in range(3)]
    master = watched_redis.master
    wait_until(lambda: master.client.wait(1, 100) == 1, why="the replica has heard all")
    watched_redis.cut_replica()
    unheard = [buy(order, pk, key=f"unheard {number}") for number in range(4)]
    assert [answer.status_code for answer in unheard] == [201] * 4
    assert stock(product, pk)["reserved"] == 7

    watched_redis.fail_over()
    wait_until(lambda: product.get("/ready").ok and order.get("/ready").ok, why="both are ready")
    for order_pk in heard:
        assert order.get(f"/orders/{order_pk}").json()["status"] == "PLACED"
    for answer in unheard:
        assert order.get(answer.headers["Location"]).json()["code"] == "order_not_found"
    assert stock(product, pk) == {"received": 10, "available": 7, "reserved": 3, "shipped": 0}
    assert_the_books_add_up(product, order, pk)

    again = buy(order, pk, key="unheard 0")
    assert again.status_code == 201
    assert "Idempotent-Replayed" not in again.headers
    assert again.json()["pk"] != unheard[0].json()["pk"]
    assert_the_books_add_up(product, order, pk)


def test_a_master_that_hangs_is_left_by_the_first_request_after_the_failover(
    watched_redis: WatchedRedis, shop_on_sentinel: tuple[Service, Service]
) -> None:
    product, order = shop_on_sentinel
    pk = create(product)
    hanging = watched_redis.master
    watched_redis.fail_over(signal.SIGSTOP)
    try:
        assert product.get(f"/products/{pk}").status_code == 200
        wait_until(lambda: buy(order, pk).status_code == 201, why="orders go on")
    finally:
        hanging.stop(signal.SIGKILL)
    assert_the_books_add_up(product, order, pk)


def test_with_min_replicas_to_write_a_master_alone_acknowledges_nothing(
    watched_redis: WatchedRedis, shop_on_sentinel: tuple[Service, Service]
) -> None:
    product, order = shop_on_sentinel
    pk = create(product)
    for server in watched_redis.pair:
        server.client.config_set("min-replicas-to-write", 1)
    wait_until(lambda: buy(order, pk).status_code == 201, why="the replica counts as a good one")
    watched_redis.cut_replica()
    refused = buy(order, pk)
    assert (refused.status_code, refused.json()["code"]) == (503, "storage_unavailable")
    assert product.get(f"/products/{pk}").json()["quantity"] == 999

    watched_redis.fail_over()
    wait_until(lambda: product.get(f"/products/{pk}").status_code == 200, why="reads are served")
    assert product.get(f"/products/{pk}").json()["quantity"] == 999
    assert buy(order, pk).status_code == 503

    watched_redis.heal()
    assert buy(order, pk).status_code == 201
    assert_the_books_add_up(product, order, pk)


def connect(url: str) -> None:
    """Connect as a service does at its start, and close."""

    async def open_and_close() -> None:
        settings = Settings(use_redis="required", redis_url=SecretStr(url))
        await (await redis_clients.connect(settings)).close_all()

    asyncio.run(open_and_close())


def test_sentinels_may_ask_for_the_password_of_the_master(watched_redis: WatchedRedis) -> None:
    password = watched_redis.password
    for sentinel in watched_redis.sentinels:
        sentinel.client.execute_command("ACL SETUSER", "default", "resetpass", f">{password}")
    try:
        connect(watched_redis.url)
        with pytest.raises(CannotStart, match="The Sentinels name no master"):
            connect(re.sub("//.*@", "//", watched_redis.url))
    finally:
        for sentinel in watched_redis.sentinels:
            sentinel.client.execute_command("ACL SETUSER", "default", "nopass")


def test_a_start_without_a_master_is_refused_as_long_as_a_sentinel_answers(
    watched_redis: WatchedRedis,
) -> None:
    url = watched_redis.url
    with pytest.raises(CannotStart, match="The Sentinels name no master"):
        connect(url.replace("shop-master", "another-master"))
    with pytest.raises(CannotStart, match="refuses us"):
        connect(re.sub("//.*@", "//:wrong@", url))
    with pytest.raises(redis_clients.NothingAnswers):
        connect(f"redis+sentinel://{HOST}:{free_port()},{HOST}:{free_port()}/shop-master")


# A Cluster, TLS or a Unix socket at start


def test_a_cluster_is_found_by_any_of_its_nodes(cluster: RedisCluster) -> None:
    connect(f"redis+cluster://{HOST}:{free_port()},{HOST}:{cluster.nodes[2].port}")
    with pytest.raises(redis_clients.NothingAnswers):
        connect(f"redis+cluster://{HOST}:{free_port()},{HOST}:{free_port()}")


def test_a_cluster_url_that_leads_to_a_single_redis_is_refused(redis_server: RedisServer) -> None:
    with pytest.raises(CannotStart, match="Cluster mode is not enabled"):
        connect(f"redis+cluster://{HOST}:{redis_server.port}")


@pytest.fixture(scope="module")
def guarded_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis with a password and a Unix socket."""
    folder = tmp_path_factory.mktemp("unix")
    port = free_port()
    server = RedisServer(
        folder, "--requirepass", "secret", "--unixsocket", str(folder / "redis.sock"), port=port,
        client=redis_client(port, password="secret"),
    )  # fmt: skip
    yield server
    server.client.close()
    server.stop()


def socket_of(server: RedisServer) -> str:
    path: str = server.client.config_get("unixsocket")["unixsocket"]
    return path


def test_a_shop_runs_over_a_unix_socket(guarded_redis: RedisServer, tmp_path: Path) -> None:
    url = f"unix://:secret@{socket_of(guarded_redis)}?db=1"
    product = Service("product", tmp_path / "log", USE_REDIS="required", REDIS_URL=url).start()
    try:
        assert product.get("/").json()["storage"] == "redis"
        pk = create(product, quantity=3)
        assert stock(product, pk)["available"] == 3
    finally:
        product.stop()
    guarded_redis.client.execute_command("SELECT", 1)
    assert guarded_redis.client.exists(product_key(pk))


def test_a_wrong_password_or_database_stops_the_start_however_redis_is_reached(
    guarded_redis: RedisServer,
) -> None:
    for address in (
        f"redis://:wrong@{HOST}:{guarded_redis.port}",
        f"redis://{HOST}:{guarded_redis.port}",
    ):
        with pytest.raises(CannotStart, match="refuses us"):
            connect(address)
    with pytest.raises(CannotStart, match="refuses us"):
        connect(f"unix://:wrong@{socket_of(guarded_redis)}")
    with pytest.raises(CannotStart, match="DB index"):
        connect(f"redis://:secret@{HOST}:{guarded_redis.port}/99")
    with pytest.raises(redis_clients.NothingAnswers):
        connect(f"unix://{socket_of(guarded_redis)}.none")


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost:6379?no_such_option=1",
        "redis://localhost:port",
        "rediss://localhost:6379?ssl_cert_reqs=perhaps",
        "rediss://localhost:6379?ssl_ca_certs=/no/such/file",
        "redis+cluster://localhost",
        "redis+cluster://localhost:6379?db=1",
        "redis+cluster://localhost:6379?ssl=true&ssl_ca_certs=/no/such/file",
        "redis+sentinel://localhost:26379",
        "redis+sentinel://localhost:26379/name?no_such_option=1",
    ],
)
def test_an_address_that_cannot_be_one_stops_the_start(url: str) -> None:
    with pytest.raises(CannotStart, match="REDIS_URL"):
        connect(url)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    if tls_redis_executable() is None or shutil.which("openssl") is None:
        pytest.skip("TLS IS NOT TESTED: it needs openssl, and a redis-server built with TLS")
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def tls_redis(
    certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TLSRedis]:
    server = TLSRedis(tmp_path_factory.mktemp("tls"), certificates)
    yield server
    server.client.close()
    server.stop()


def test_a_shop_runs_over_tls(
    tls_redis: TLSRedis, certificates: Certificates, tmp_path: Path
) -> None:
    url = f"rediss://{HOST}:{tls_redis.port}?ssl_ca_certs={certificates.authority}"
    product = Service("product", tmp_path / "log", USE_REDIS="required", REDIS_URL=url).start()
    try:
        assert product.get("/").json()["storage"] == "redis"
        pk = create(product, quantity=3)
        assert stock(product, pk)["available"] == 3
    finally:
        product.stop()
    assert tls_redis.client.exists(product_key(pk))


def test_a_certificate_that_cannot_be_verified_stops_the_start_with_one_line(
    tls_redis: TLSRedis, tmp_path: Path
) -> None:
    another = Certificates(tmp_path)
    url = f"rediss://{HOST}:{tls_redis.port}?ssl_ca_certs={another.authority}"
    product = Service("product", tmp_path / "log", USE_REDIS="true", REDIS_URL=url)
    product.start(wait=False)
    assert product.process.wait(20) != 0
    said = product.log.read_text()
    assert "Redis cannot be trusted" in said
    assert "CERTIFICATE_VERIFY_FAILED" in said
    assert "IN MEMORY" not in said
    assert "Traceback" not in said


def test_a_certificate_has_to_be_known_and_of_that_host(
    tls_redis: TLSRedis, certificates: Certificates
) -> None:
    address = f"{HOST}:{tls_redis.port}"
    with pytest.raises(CannotStart, match="cannot be trusted"):
        connect(f"rediss://{address}")
    with pytest.raises(CannotStart, match="cannot be trusted"):
        connect(f"rediss://localhost:{tls_redis.port}?ssl_ca_certs={certificates.authority}")
    connect(f"rediss://{address}?ssl_cert_reqs=none")


def test_a_cluster_may_speak_tls(certificates: Certificates, tmp_path: Path) -> None:
    server = TLSRedis(tmp_path, certificates, "--cluster-enabled", "yes", "--tls-cluster", "yes")
    try:
        server.client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
        wait_until(lambda: server.client.cluster("info")["cluster_state"] == "ok")
        url = f"redis+cluster://{HOST}:{server.port}?ssl=true"
        connect(f"{url}&ssl_ca_certs={certificates.authority}")
        with pytest.raises(CannotStart, match="cannot be trusted"):
            connect(url)
    finally:
        server.client.close()
        server.stop()


# What one Redis may say instead of serving


def test_a_replica_that_refuses_to_write_is_503(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    url = f"redis://{HOST}:{server.port}"
    product = Service("product", tmp_path / "log", USE_REDIS="required", REDIS_URL=url).start()
    try:
        pk = create(product)
        server.client.replicaof(HOST, server.port)
        assert product.get(f"/products/{pk}").status_code == 200
        assert writes_are_refused(product, pk)
        server.client.replicaof("NO", "ONE")
        server.client.config_set("maxmemory", 1)
        assert writes_are_refused(product, pk)
        server.client.config_set("maxmemory", 0)
        assert product.post(f"/products/{pk}/stock", {"change": 1}).status_code == 200
    finally:
        product.stop()
        server.client.close()
        server.stop()


def writes_are_refused(product: Service, pk: str) -> bool:
    """Tell whether a script and a bare command are refused, which Redis does in other words."""
    answers = [
        product.post(f"/products/{pk}/stock", {"change": 1}),
        product.post("/products", {"name": "Lamp", "price": 1, "quantity": 1}),
    ]
    return [answer.json().get("code") for answer in answers] == ["storage_unavailable"] * 2


# Several workers


def test_a_race_is_exact_with_two_workers_of_each_service(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    environment = {"USE_REDIS": "required", "REDIS_PORT": str(redis_server.port)}
    environment |= SO_SLOW_MACHINES_PASS | {"REDIS_PREFIX": "two-workers"}
    product = Service("product", tmp_path / "product.log", 0, **environment)
    environment["PRODUCT_SERVICE_URL"] = product.url
    order = Service("order", tmp_path / "order.log", 0, **environment)
    try:
        for service in (product, order):
            service.start("--workers", "2", wait=False)
        for service in (product, order):
            wait_until(partial(has_two_workers, service), 30, "both workers have started")
        pk = create(product, quantity=100)
        assert race(order, pk, 200) == {201: 100, 400: 100}
        expected = {"received": 100, "available": 0, "reserved": 100, "shipped": 0}
        assert stock(product, pk) == expected
        assert_the_books_add_up(product, order, pk)
    finally:
        order.stop()
        product.stop()


def has_two_workers(service: Service) -> bool:
    return service.log.read_text().count("Application startup complete") == 2

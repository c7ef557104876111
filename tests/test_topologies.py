"""ShopSphere on every shape of Redis: a Cluster, Sentinels, TLS, a Unix socket."""

import asyncio
import re
import shutil
import signal
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from pydantic import SecretStr
from redis.crc import key_slot

import test_connection
from redis_db import RedisRecords
from shopsphere.catalogue.products import Products
from shopsphere.domain.errors import StoreUnavailable
from shopsphere.redis_clients import connecting
from shopsphere.redis_clients.errors import NothingResponds
from shopsphere.settings import CannotStart, Settings
from tests.customers import Customers
from tests.launching import three_services
from tests.load import send
from tests.redis_groups import (
    HOST,
    RedisCluster,
    TLSRedis,
    WatchedRedis,
    ending,
    new_certificate,
    tls_redis_executable,
)
from tests.servers import RedisServer, Service, free_port, redis_client, wait_until
from tests.shop import Shop
from tests.test_story import is_ready, whole_story

SETTINGS = {"SETTLE_AFTER": "1.5", "SETTLE_INTERVAL": "0.2", "ORDER_TIMEOUT": "6"}
EXACT_SECONDS = 30


def settings_of(url: str) -> Settings:
    return Settings(use_redis="required", redis_url=SecretStr(url))


async def with_products(
    url: str, use: Callable[[Products], Awaitable[None]], prefix: str = "shopsphere"
) -> None:
    """Connect as a service does at its start, and use the products there."""
    client = await connecting.connect(settings_of(url))
    try:
        await use(Products(RedisRecords(client, prefix)))
    finally:
        await client.close_all()


def connect(url: str) -> None:
    """Connect, put a product on sale, and look at it."""

    async def use(products: Products) -> None:
        product, _ = await products.create("Lamp", 250, 3)
        assert await products.get(product.pk) == product

    asyncio.run(with_products(url, use, "another-shop"))


def shop_at(url: str, folder: Path) -> Iterator[Shop]:
    """Yield a shop that is never restarted, whatever happens to its Redis."""
    with Shop(folder, {"USE_REDIS": "required", "REDIS_URL": url, **SETTINGS}) as shop:
        yield shop.start()


def status(service: Service, path: str) -> int:
    return send("GET", service.url + path).status


def what_the_tool_adds_to(url: str) -> list[str]:
    """Fail unless `test_connection.py` says how Redis is at this URL; return what else it says."""
    redis, persistence, eviction, *more = test_connection.redis_lines(settings_of(url))
    assert re.search(r", version \d+\.\d+\.\d+, round trip ", redis.text)
    assert (redis.state, persistence.state, eviction.state) == ("ok", "ok", "ok")
    assert persistence.text == "appendonly is on"
    return [line.text for line in more]


# Redis Cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    nodes = RedisCluster(tmp_path_factory.mktemp("cluster"))
    with ending(nodes.nodes):
        yield nodes


@pytest.fixture(scope="module")
def shop(cluster: RedisCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    yield from shop_at(cluster.url, tmp_path_factory.mktemp("shop"))


def product_key(pk: str) -> str:
    return f"shopsphere:product:{{{pk}}}"


def test_everything_that_a_shop_does_works_on_a_cluster(
    cluster: RedisCluster, tmp_path: Path
) -> None:
    assert what_the_tool_adds_to(cluster.url) == []
    with three_services(tmp_path, USE_REDIS="required", REDIS_URL=cluster.url) as trio:
        whole_story(trio)


def test_a_lost_cluster_node_stops_all_if_all_slots_are_wanted_otherwise_what_lives_there(
    cluster: RedisCluster, shop: Shop
) -> None:
    every_order_needs = ("shopsphere:notes:{notes}", "shopsphere:list:{orders}:all")
    needed = [cluster.node_of(key) for key in every_order_needs]
    node = next(node for node in cluster.nodes if node not in needed)
    products = [shop.new_product(1000) for _ in range(20)]
    on_it = {cluster.node_of(product_key(pk)) is node: pk for pk in products}
    there, elsewhere = on_it[True], on_it[False]
    others = [other for other in cluster.nodes if other is not node]
    with Customers(shop, there) as unlucky, Customers(shop, elsewhere) as lucky:
        unlucky.wait_for(3)
        for other in others:
            other.client.config_set("cluster-require-full-coverage", "yes")
        node.stop(signal.SIGKILL)
        try:
            wait_until(lambda: status(shop.product, f"/products/{elsewhere}") == 503, 30)
            assert shop.place(elsewhere).status == 503
            paths = ("/products", "/ready", "/")
            assert [status(shop.product, path) for path in paths] == [503, 503, 200]

            for other in others:
                other.client.config_set("cluster-require-full-coverage", "no")
            lucky.wait_for(3)
            assert status(shop.product, f"/products/{there}") == 503
            for _ in range(20):
                assert status(shop.product, f"/products/{elsewhere}") == 200
        finally:
            node.start()
        wait_until(cluster.is_whole, 30, "the cluster is whole again")
        unlucky.wait_for(3)
        lucky.wait_for(3)
    shop.wait_until_exact(EXACT_SECONDS)
    unlucky.assert_served()
    lucky.assert_served()


def test_a_search_misses_no_product_while_the_index_moves_key_by_key(cluster: RedisCluster) -> None:
    directory = "moved:names:{names}"
    slot, source = key_slot(directory.encode()), cluster.node_of(directory)
    target = next(node for node in cluster.nodes if node is not source)

    async def move_the_index(products: Products) -> None:
        there: list[str] = []
        refused = 0

        async def add() -> None:
            there.append((await products.create("A lamp of steel and oak", 100, 100))[0].pk)

        async def rename() -> None:
            await products.update(there[0], f"A lamp of {len(there)} parts", None)

        async def find() -> None:
            page = await products.search_page("lamp", None, 1000)
            assert sorted(product.pk for product in page.items) == there

        for _ in range(10):
            await add()
        cluster.begin_to_move(slot, source, target)
        while keys := source.client.execute_command("CLUSTER GETKEYSINSLOT", slot, 100):
            cluster.move(source, target, min(keys, key=lambda key: key == directory))
            for use in (add, rename, find):
                try:
                    await use()
                except StoreUnavailable:
                    refused += 1
        cluster.has_moved(slot, target)
        assert refused  # redis-py 8.1 may not find a key that has moved before its slot
        for use in (add, rename, find):
            await use()

    asyncio.run(with_products(cluster.url, move_the_index, "moved"))


def test_a_cluster_is_found_by_any_of_its_nodes_and_a_single_redis_is_none(
    cluster: RedisCluster, redis_server: RedisServer
) -> None:
    nobody = f"redis+cluster://{HOST}:{free_port()},{HOST}"
    connect(f"{nobody}:{cluster.nodes[2].port}")
    with pytest.raises(NothingResponds):
        connect(f"{nobody}:{free_port()}")
    with pytest.raises(CannotStart, match="Cluster mode is not enabled"):
        connect(f"redis+cluster://{HOST}:{redis_server.port}")


# Sentinel


@pytest.fixture(scope="module")
def running_watched_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedRedis]:
    servers = WatchedRedis(tmp_path_factory.mktemp("sentinel"))
    with ending([*servers.sentinels, *servers.pair]):
        yield servers


@pytest.fixture
def watched_redis(running_watched_redis: WatchedRedis) -> WatchedRedis:
    """Master, replica and Sentinels, all up."""
    running_watched_redis.heal()
    return running_watched_redis


@pytest.fixture(scope="module")
def watched_shop(
    running_watched_redis: WatchedRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    yield from shop_at(running_watched_redis.url, tmp_path_factory.mktemp("shop"))


def test_a_failover_takes_back_exactly_what_the_replica_had_not_heard(
    watched_redis: WatchedRedis, watched_shop: Shop
) -> None:
    """And orders go on by themselves, also where the old master hangs."""
    [warning] = what_the_tool_adds_to(watched_redis.url)
    assert "min-replicas-to-write is 0" in warning
    shop = watched_shop
    product = shop.new_product(10)
    heard = [shop.placed(product) for _ in range(3)]
    master = watched_redis.master
    wait_until(lambda: master.client.wait(1, 100) == 1, why="the replica has heard all")
    watched_redis.cut_replica()
    unheard = [shop.place(product, 1, f"unheard {number}") for number in range(4)]
    assert [answer.status for answer in unheard] == [201] * 4
    assert shop.stock(product) == (10, 3, 7, 0)

    watched_redis.fail_over(signal.SIGSTOP)
    for service in shop.services:
        wait_until(partial(is_ready, service), why=f"{service.name} is ready")
    assert [shop.order_status(pk) for pk in heard] == ["PLACED"] * 3
    assert {shop.order_status(answer.body["pk"]) for answer in unheard} == {""}
    assert shop.stock(product) == (10, 7, 3, 0)

    again = shop.place(product, 1, "unheard 0")
    assert again.status == 201
    assert "idempotent-replayed" not in again.headers
    assert again.body["pk"] != unheard[0].body["pk"]
    master.stop(signal.SIGKILL)
    shop.wait_until_exact(EXACT_SECONDS)


def test_who_finds_no_connection_free_waits_and_who_lost_one_asks_the_sentinels_again(
    watched_redis: WatchedRedis,
) -> None:
    async def use(products: Products) -> None:
        for _ in range(2):  # more than one record is read over a connection for itself
            await products.create("Lamp", 100, 1)
        await asyncio.gather(*(products.page(None, 2) for _ in range(20)))
        old = watched_redis.master
        old.process.send_signal(signal.SIGSTOP)
        asking = asyncio.create_task(products.page(None, 2))
        await asyncio.to_thread(watched_redis.fail_over, signal.SIGSTOP)
        old.stop(signal.SIGKILL)
        await asking

    asyncio.run(with_products(f"{watched_redis.url}?max_connections=2&socket_timeout=30", use))


def test_sentinels_that_ask_for_a_password_or_name_no_master_are_told_apart(
    watched_redis: WatchedRedis,
) -> None:
    url = watched_redis.url
    without, wrong = (
        re.sub("//.*@", f"//{HOST}:{free_port()},", url),
        re.sub("//.*@", "//:wrong@", url),
    )
    with pytest.raises(CannotStart, match="No master found"):
        connect(url.replace("shop-master", "another-master"))
    with pytest.raises(CannotStart, match="refuses the connection"):
        connect(wrong)
    with pytest.raises(NothingResponds):
        connect(f"redis+sentinel://{HOST}:{free_port()},{HOST}:{free_port()}/shop-master")
    for sentinel in watched_redis.sentinels:
        password = f">{watched_redis.password}"
        sentinel.client.execute_command("ACL SETUSER", "default", "resetpass", password)
    try:
        connect(url)
        with pytest.raises(CannotStart, match="refuses the connection"):
            connect(without)
    finally:
        for sentinel in watched_redis.sentinels:
            sentinel.client.execute_command("ACL SETUSER", "default", "nopass")
    watched_redis.master.stop(signal.SIGKILL)
    with pytest.raises(StoreUnavailable):
        connect(url)  # it is a shop that will be back, not nothing


# One Redis: passwords, a Unix socket, TLS


def test_redis_is_reached_over_a_unix_socket_with_the_right_password_and_database(
    tmp_path: Path,
) -> None:
    port, socket = free_port(), tmp_path / "redis.sock"
    options = ("--requirepass", "secret", "--unixsocket", str(socket))
    server = RedisServer(
        tmp_path, *options, port=port, client=redis_client(port, password="secret")
    )
    with ending([server]):
        connect(f"unix://:secret@{socket}?db=1")
        assert server.client.info("keyspace").keys() == {"db1"}
        with pytest.raises(CannotStart, match="refuses the connection"):
            connect(f"unix://:wrong@{socket}")
        with pytest.raises(CannotStart, match="DB index"):
            connect(f"unix://:secret@{socket}?db=99")
        with pytest.raises(NothingResponds):
            connect(f"unix://{socket}.none")


@pytest.mark.skipif(
    tls_redis_executable() is None or shutil.which("openssl") is None,
    reason="TLS IS NOT TESTED: it needs openssl, and a redis-server built with TLS",
)
def test_over_tls_a_certificate_has_to_be_known_and_of_that_host(tmp_path: Path) -> None:
    """By a client of one Redis, and by one of a Cluster."""
    known, another = (new_certificate(tmp_path, name) for name in ("known", "another"))
    one, cluster = "rediss://{}?ssl_ca_certs={}", "redis+cluster://{}?ssl=true&ssl_ca_certs={}"
    server = TLSRedis(tmp_path, known)
    with ending([server]):
        server.client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
        wait_until(lambda: server.client.cluster("info")["cluster_state"] == "ok")
        address = f"{HOST}:{server.port}"
        for url in (one, cluster):
            connect(url.format(address, known))
            connect(url.format(address, another) + "&ssl_cert_reqs=none")
        by_name = one.format(f"localhost:{server.port}", known)
        for refused in (one.format(address, another), cluster.format(address, another), by_name):
            with pytest.raises(CannotStart, match="TLS to Redis failed"):
                connect(refused)

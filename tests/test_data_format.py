"""Data in Redis that this version does not know is refused at the start; its own never is."""

from typing import Any

import pytest

from redis_clients import connect
from redis_db import FORMAT, open_records
from shopsphere.catalogue.products import Products
from shopsphere.domain.errors import CannotStart
from tests.apps import settings_of
from tests.servers import RedisServer

pytestmark = pytest.mark.anyio

OF_0_1_0: dict[str, Any] = {
    "products": lambda redis: redis.zadd("shop:products", {"01M8706QWZPAFXJVYTP6GM7GVS": 0}),
    "users": lambda redis: redis.set("shop:email:user@example.com", "01M8706QC8BM7479PQSVKZ4Q68"),
    "orders": lambda redis: redis.zadd("shop:orders", {"01M8706QYJ691M9ES1XN5SPPBZ": 0}),
    "an order that is being placed": lambda redis: redis.zadd("shop:orders-placing", {"a b": 1}),
}


async def start(server: RedisServer) -> None:
    """Open the storage as a service does at its start, and close it."""
    client = await connect(settings_of({"REDIS_PORT": str(server.port)}))
    await (await open_records(client, "shop")).close()


@pytest.fixture
def redis(redis_server: RedisServer) -> RedisServer:
    redis_server.client.flushall()
    return redis_server


@pytest.mark.parametrize("kept", OF_0_1_0)
async def test_data_of_0_1_0_is_refused_in_a_sentence_that_names_the_prefix(
    redis: RedisServer, kept: str
) -> None:
    OF_0_1_0[kept](redis.client)
    with pytest.raises(CannotStart, match="another REDIS_PREFIX"):
        await start(redis)
    assert redis.client.get("shop:format") is None


async def test_data_of_a_later_format_is_refused(redis: RedisServer) -> None:
    redis.client.set("shop:format", "999")
    with pytest.raises(CannotStart, match="REDIS_PREFIX=shop"):
        await start(redis)


async def test_a_shop_that_lost_only_the_number_of_its_format_starts(redis: RedisServer) -> None:
    """As after FLUSHALL beside running services, or where its node of a Cluster came back empty."""
    client = await connect(settings_of({"REDIS_PORT": str(redis.port)}))
    records = await open_records(client, "shop")
    try:
        redis.client.flushall()
        laptop = await Products(records).create("Laptop", 99_999, 10)
        await Products(records).reserve(laptop.pk, "01M8706QYJ691M9ES1XN5SPPBZ", 1)
        await start(redis)
    finally:
        await records.close()
    assert redis.client.get("shop:format") == FORMAT

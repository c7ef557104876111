"""The buckets of the search index on Redis, beside a sorted list, too plain to be wrong."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis_stores.products import BUCKET

from redis_db import SCRIPTS
from tests.servers import RedisServer

INDEX = "shop:{product-names}"

entries = st.text(st.sampled_from("\0abé"), min_size=1, max_size=4)
changes = st.tuples(st.sampled_from(["add", "remove"]), st.lists(entries, max_size=20))


def run(server: RedisServer, name: str, *arguments: object) -> list[str]:
    script = (SCRIPTS / f"{name}_entries.lua").read_text(encoding="utf-8")
    found: list[str] = server.client.eval(script, 1, INDEX, *map(str, arguments))
    return found


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(changes, max_size=12),
    st.lists(st.tuples(entries, entries, st.integers(1, 12)), min_size=1, max_size=5),
    st.integers(2, 6),
)
def test_the_buckets_hold_what_a_sorted_list_does(
    redis_server: RedisServer,
    history: list[tuple[str, list[str]]],
    ranges: list[tuple[str, str, int]],
    size: int,
) -> None:
    redis_server.client.flushall()
    plain: set[str] = set()
    for change, some in history:
        if change == "add":
            run(redis_server, "add", size, *some)
            plain |= set(some)
        else:
            run(redis_server, "remove", *some)
            plain -= set(some)

        assert run(redis_server, "find", "-", "+", 1000) == sorted(plain)
        for low, high, count in ranges:
            inside = sorted(entry for entry in plain if low <= entry < high)
            assert run(redis_server, "find", f"[{low}", f"({high}", count) == inside[:count]
            above = sorted(entry for entry in plain if low < entry)
            assert run(redis_server, "find", f"({low}", "+", count) == above[:count]

        lows = redis_server.client.zrange(INDEX, 0, -1)
        sizes = [redis_server.client.zcard(f"{INDEX}:{low}") for low in lows]
        assert all(0 < each < size for each in sizes)
        assert sum(sizes) == len(plain)
        assert redis_server.client.dbsize() == len(lows) + bool(lows)


def test_buckets_stay_packed_however_many_entries_there_are(redis_server: RedisServer) -> None:
    redis_server.client.flushall()
    longest = "{:064}".format
    run(redis_server, "add", BUCKET, *map(longest, range(1000)))

    buckets = redis_server.client.keys(f"{INDEX}:*")
    encodings = {str(redis_server.client.object("encoding", bucket)) for bucket in buckets}
    assert encodings <= {"ziplist", "listpack"}


def test_a_search_looks_into_no_more_buckets_than_it_needs(redis_server: RedisServer) -> None:
    redis_server.client.flushall()
    run(redis_server, "add", 4, *range(100, 1000))
    redis_server.client.config_resetstat()

    assert run(redis_server, "find", "-", "+", 5) == ["100", "101", "102", "103", "104"]
    calls = redis_server.client.info("commandstats")["cmdstat_zrangebylex"]["calls"]
    assert calls < 10

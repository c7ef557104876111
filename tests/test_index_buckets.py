"""The buckets of the search index on Redis, beside a sorted list, too plain to be wrong."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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

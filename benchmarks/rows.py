"""What is measured: each row does its work in rounds, ours and the other in turn."""

import asyncio
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import requests

from benchmarks.baselines import PK
from benchmarks.big_shop import HITS, NEEDLE, fill_redis
from benchmarks.servers import ROOT, CannotMeasure, Load, Server, Stage

SMALL_SHOP = 1_000
PAGE = 100
ITEMS = 5
LOGINS = 50
AT_ONCE = 64
WORKERS = 4


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is done for a figure."""

    rounds: int
    seconds: int
    big_shop: int
    orders: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One round: the figure that has a target, and what it is made of.

    Where two servers are compared, `by_cpu` is the same figure by the CPU that each of them spends
    on a request: it holds also on a machine that has other things to do.
    """

    value: float
    made_of: str
    by_cpu: float | None = None


Measure = Callable[[Stage, Effort], Iterator[Sample]]


@dataclass(frozen=True, slots=True)
class Row:
    """Something to measure. `sign` is ≥ or ≤, and says on which side of `target` it has to be.

    Rows that name the same stage, and follow each other, share its servers.
    """

    name: str
    work: str
    sign: str
    target: float
    unit: str
    stage: str
    measure: Measure

    def is_met_by(self, value: float) -> bool:
        return value >= self.target if self.sign == "≥" else value <= self.target


@dataclass(slots=True)
class Result:
    """What was measured of a row, or why it was not."""

    row: Row
    samples: list[Sample] = field(default_factory=list)
    trouble: str = ""

    @property
    def values(self) -> list[float]:
        return [sample.value for sample in self.samples]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def median_by_cpu(self) -> float | None:
        by_cpu = [sample.by_cpu for sample in self.samples if sample.by_cpu is not None]
        return statistics.median(by_cpu) if by_cpu else None


def in_turn(ours: Callable[[], Load], other: Callable[[], Load], rounds: int) -> Iterator[Sample]:
    """Measure both in turn, changing who begins; the value is the first rate by the second."""
    ours()
    other()  # what is cold warms up
    for number in range(rounds):
        if number % 2:
            bare, own = other(), ours()
        else:
            own, bare = ours(), other()
        yield Sample(
            own.rate / bare.rate,
            f"{own.rate:,.0f} of {bare.rate:,.0f} a second; "
            f"{own.cpu_each * 1e6:,.0f} and {bare.cpu_each * 1e6:,.0f} µs of CPU each",
            bare.cpu_each / own.cpu_each,
        )


def read_in_memory(stage: Stage, effort: Effort) -> Iterator[Sample]:
    return _reads(stage, effort, {"USE_REDIS": "false"})


def read_on_redis(stage: Stage, effort: Effort) -> Iterator[Sample]:
    return _reads(stage, effort, stage.on_redis())


def read_untraced(stage: Stage, effort: Effort) -> Iterator[Sample]:
    """Compare a read while traces are off with one in an app that has no tracing."""
    return _against(stage, effort, "product_service:app", {}, "benchmarks.untraced:app")


def read_traced(stage: Stage, effort: Effort) -> Iterator[Sample]:
    """Compare a read whose span is sent to a collector with one while traces are off."""
    collector = stage.server("benchmarks.baselines:collector_app").wait()
    traced = {
        "FASTAPI_OTEL_AUTO_CONFIGURE": "true",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
    }
    return _against(stage, effort, "product_service:app", traced, "product_service:app")


def _against(
    stage: Stage, effort: Effort, app: str, settings: dict[str, str], other_app: str
) -> Iterator[Sample]:
    memory = {"USE_REDIS": "false"}
    first = stage.server(app, {**memory, **settings}).wait()
    other = stage.server(other_app, memory).wait()
    paths = {server: f"/products/{add_product(server)}" for server in (first, other)}
    yield from in_turn(
        lambda: first.drive(paths[first], effort.seconds),
        lambda: other.drive(paths[other], effort.seconds),
        effort.rounds,
    )


def _reads(stage: Stage, effort: Effort, storage: dict[str, str]) -> Iterator[Sample]:
    ours = stage.server("product_service:app", storage)
    bare = stage.server("benchmarks.baselines:product_app")
    ours.wait()
    bare.wait()
    path = f"/products/{add_product(ours)}"
    yield from in_turn(
        lambda: ours.drive(path, effort.seconds),
        lambda: bare.drive(f"/products/{PK}", effort.seconds),
        effort.rounds,
    )


def orders_on_redis(stage: Stage, effort: Effort) -> Iterator[Sample]:
    products, orders = our_pair(stage)
    bare_products = stage.server("benchmarks.baselines:product_app")
    bare_orders = stage.server(
        "benchmarks.baselines:order_app", {"PRODUCT_SERVICE_URL": bare_products.url}
    )
    bare_products.wait()
    bare_orders.wait()
    pk = add_product(products)
    yield from in_turn(
        lambda: place_orders(orders, pk, effort.seconds),
        lambda: place_orders(bare_orders, PK, effort.seconds),
        effort.rounds,
    )


def order_of_five(stage: Stage, effort: Effort) -> Iterator[Sample]:
    """Compare an order of five items with five orders of one."""
    products, orders = our_pair(stage)
    pks = [add_product(products) for _ in range(ITEMS)]
    items = ", ".join(f'{{"product_id": "{pk}", "quantity": 1}}' for pk in pks)
    body = f'{{"items": [{items}]}}'
    for sample in in_turn(
        lambda: place_orders(orders, pks[0], effort.seconds),
        lambda: orders.drive("/order", effort.seconds, "POST", body),
        effort.rounds,
    ):
        yield Sample(sample.value / ITEMS, sample.made_of, (sample.by_cpu or 0) / ITEMS)


def hot_product(stage: Stage, effort: Effort) -> Iterator[Sample]:
    return _reservations(stage, effort, products=1, processes=1, at_once=AT_ONCE)


def hot_product_by_two(stage: Stage, effort: Effort) -> Iterator[Sample]:
    return _reservations(stage, effort, products=1, processes=2, at_once=AT_ONCE)


def many_products(stage: Stage, effort: Effort) -> Iterator[Sample]:
    return _reservations(stage, effort, products=SMALL_SHOP, processes=1, at_once=AT_ONCE)


def one_at_a_time(stage: Stage, effort: Effort) -> Iterator[Sample]:
    return _reservations(stage, effort, products=SMALL_SHOP, processes=1, at_once=1)


def _reservations(
    stage: Stage, effort: Effort, products: int, processes: int, at_once: int
) -> Iterator[Sample]:
    """Compare PUTs of reservations of new orders, by today's steps and by 0.1.0's script."""

    def start(app: str, prefix: str) -> tuple[list[Server], str]:
        environment = {**stage.on_redis(prefix), "LOG_LEVEL": "WARNING"}
        pks = asyncio.run(fill_redis(environment["REDIS_URL"], prefix, products))
        servers = [stage.server(app, environment) for _ in range(processes)]
        return [server.wait() for server in servers], stage.file(prefix, "\n".join(pks))

    def drive(servers: list[Server], pks: str) -> Load:
        with ThreadPoolExecutor(len(servers)) as drivers:
            loads = list(
                drivers.map(
                    lambda server: server.drive(
                        "/", effort.seconds, "PUT", '{"quantity": 1}', pks,
                        connections=at_once,
                    ),
                    servers,
                )
            )  # fmt: skip
        return Load(
            sum(load.requests for load in loads),
            max(load.seconds for load in loads),
            max(load.p99_seconds for load in loads),
            sum(load.cpu_seconds for load in loads),
        )

    ours = start("product_service:app", "ours")
    script = start("benchmarks.reserve_baseline:app", "script")
    yield from in_turn(lambda: drive(*ours), lambda: drive(*script), effort.rounds)


def our_pair(stage: Stage, workers: int = 1) -> tuple[Server, Server]:
    """Start the product service and the order service on one Redis."""
    products = stage.server("product_service:app", stage.on_redis(), workers)
    orders = stage.server(
        "order_service:app", {"PRODUCT_SERVICE_URL": products.url, **stage.on_redis()}, workers
    )
    return products.wait(), orders.wait()


def add_product(server: Server) -> str:
    """Make a product that cannot be sold out; return its pk."""
    body = {"name": "Laptop", "price": 999.99, "quantity": 1_000_000_000}
    answer = requests.post(f"{server.url}/products", json=body, timeout=10)
    answer.raise_for_status()
    return str(answer.json()["pk"])


def place_orders(server: Server, product_pk: str, seconds: int) -> Load:
    """Order one unit again and again."""
    body = f'{{"product_id": "{product_pk}", "quantity": 1}}'
    return server.drive("/order", seconds, "POST", body)


def workers_that_read(stage: Stage, effort: Effort) -> Iterator[Sample]:
    many, one = (stage.server("product_service:app", stage.on_redis(), n) for n in (WORKERS, 1))
    path = f"/products/{add_product(one.wait())}"
    many.wait()
    return _many_and_one(lambda server: server.drive(path, effort.seconds), many, one, effort)


def workers_that_order(stage: Stage, effort: Effort) -> Iterator[Sample]:
    (products, many), (_, one) = our_pair(stage, WORKERS), our_pair(stage)
    pk = add_product(products)
    return _many_and_one(lambda server: place_orders(server, pk, effort.seconds), many, one, effort)


def _many_and_one(
    drive: Callable[[Server], Load], many: Server, one: Server, effort: Effort
) -> Iterator[Sample]:
    """Compare the rates of many workers and of one; the CPU of workers is not seen."""
    for _ in range(effort.rounds):
        rates = [drive(server).rate for server in (many, one)]
        yield Sample(rates[0] / rates[1], "{:,.0f} of {:,.0f} a second".format(*rates))


def newest_in_memory(stage: Stage, effort: Effort) -> Iterator[Sample]:
    return _big_and_small(*memory_shops(stage, effort), _newest_page, PAGE, effort)


def newest_on_redis(stage: Stage, effort: Effort) -> Iterator[Sample]:
    return _big_and_small(*redis_shops(stage, effort), _newest_page, PAGE, effort)


def orders_in_memory(stage: Stage, effort: Effort) -> Iterator[Sample]:
    def fill(count: int) -> Server:
        environment = {"USE_REDIS": "false", "ORDERS": str(count)}
        return stage.server("benchmarks.big_shop:order_app", environment).wait(shows_log=True)

    shops = fill(effort.orders), fill(SMALL_SHOP)
    return _big_and_small(*shops, _page_of_placed, PAGE, effort)


def orders_listed_on_redis(stage: Stage, effort: Effort) -> Iterator[Sample]:
    def fill(prefix: str, count: int) -> Server:
        environment = stage.on_redis(prefix)
        asyncio.run(fill_redis(environment["REDIS_URL"], prefix, 1, count))
        return stage.server("order_service:app", environment).wait()

    shops = fill("big", effort.orders), fill("small", SMALL_SHOP)
    return _big_and_small(*shops, _page_of_placed, PAGE, effort)


def page_in_memory(stage: Stage, effort: Effort) -> Iterator[Sample]:
    return _big_and_small(*memory_shops(stage, effort), _middle_page, PAGE, effort)


def page_on_redis(stage: Stage, effort: Effort) -> Iterator[Sample]:
    return _big_and_small(*redis_shops(stage, effort), _middle_page, PAGE, effort)


def search_in_memory(stage: Stage, effort: Effort) -> Iterator[Sample]:
    return _big_and_small(*memory_shops(stage, effort), _search, HITS, effort)


def search_on_redis(stage: Stage, effort: Effort) -> Iterator[Sample]:
    return _big_and_small(*redis_shops(stage, effort), _search, HITS, effort)


def memory_shops(stage: Stage, effort: Effort) -> tuple[Server, Server]:
    """Return a big shop and a small one in memory, filled when this stage is first asked."""

    def fill(count: int) -> Server:
        environment = {"USE_REDIS": "false", "PRODUCTS": str(count)}
        return stage.server("benchmarks.big_shop:app", environment).wait(shows_log=True)

    stage.shops = stage.shops or (fill(effort.big_shop), fill(SMALL_SHOP))
    return stage.shops


def redis_shops(stage: Stage, effort: Effort) -> tuple[Server, Server]:
    """Return a big shop and a small one on one Redis, filled when this stage is first asked."""

    def fill(prefix: str, count: int) -> Server:
        environment = stage.on_redis(prefix)
        asyncio.run(fill_redis(environment["REDIS_URL"], prefix, count))
        return stage.server("product_service:app", environment).wait()

    stage.shops = stage.shops or (fill("big", effort.big_shop), fill("small", SMALL_SHOP))
    return stage.shops


def _big_and_small(
    big: Server, small: Server, path: Callable[[Server], str], items: int, effort: Effort
) -> Iterator[Sample]:
    """Compare what the same question costs in both; its answer has so many items."""
    paths = {server: path(server) for server in (big, small)}
    for server, question in paths.items():
        found = len(requests.get(server.url + question, timeout=10).json())
        if found != items:
            raise CannotMeasure(f"{question} found {found} items instead of {items}")
    yield from in_turn(
        lambda: small.drive(paths[small], effort.seconds),
        lambda: big.drive(paths[big], effort.seconds),
        effort.rounds,
    )


def _middle_page(server: Server) -> str:
    """Return the path of a page from the middle of the list."""
    with requests.get(f"{server.url}/products", timeout=60) as answer:
        pks = [product["pk"] for product in answer.json()]
    return f"/products?limit={PAGE}&after={pks[len(pks) // 2]}"


def _newest_page(server: Server) -> str:
    return _middle_page(server) + "&order=newest"


def _page_of_placed(server: Server) -> str:
    """Return the path of a page of PLACED orders, from the middle of the list backwards."""
    path = "/orders?status=PLACED&limit=1000"
    page = requests.get(server.url + path, timeout=10)
    for _ in range(int(page.headers["X-Total-Count"]) // 2000):
        path = page.links["next"]["url"]
        page = requests.get(server.url + path, timeout=10)
    pk = page.json()[len(page.json()) // 2]["pk"]
    since = "2026-01-01T00:00:00Z"
    return f"/orders?status=PLACED&since={since}&order=newest&limit={PAGE}&after={pk}"


def _search(_: Server) -> str:
    return f"/products/search?limit={PAGE}&name={NEEDLE}"


def list_in_memory(stage: Stage, effort: Effort) -> Iterator[Sample]:
    return full_list(memory_shops(stage, effort)[0], "/products")


def list_on_redis(stage: Stage, effort: Effort) -> Iterator[Sample]:
    return full_list(redis_shops(stage, effort)[0], "/products")


def full_list(server: Server, path: str) -> Iterator[Sample]:
    """Read the whole list, and watch how much more memory the process holds meanwhile.

    Just once, and before anybody else reads it: memory that a process once had, it keeps.
    """
    requests.get(f"{server.url}{path}?limit={PAGE}", timeout=10)
    held = [server.memory_bytes()]
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(0.02):
            held.append(server.memory_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.monotonic()
    with requests.get(server.url + path, stream=True, timeout=60) as answer:
        read = sum(len(part) for part in answer.iter_content(64 * 1024))
    seconds = time.monotonic() - began
    is_over.set()
    watcher.join()
    held.append(server.memory_bytes())
    grown = (max(held) - held[0]) / 1e6
    yield Sample(
        grown, f"{read / 1e6:.1f} MB read in {seconds:.1f} s, {held[0] / 1e6:.0f} MB held before"
    )


def health_during_logins(stage: Stage, effort: Effort) -> Iterator[Sample]:
    """Who logs in late may be answered 503: all that counts here is who asks for something else."""
    server = stage.server("user_service:app", {"USE_REDIS": "false"}).wait()
    account = {"email": "user@example.com", "password": "securepass123"}
    requests.post(f"{server.url}/register", json=account, timeout=10).raise_for_status()

    def login(_: int) -> bool:
        return requests.post(f"{server.url}/login", json=account, timeout=60).ok

    for _ in range(min(effort.rounds, 3)):
        with ThreadPoolExecutor(LOGINS) as people:
            logins = people.map(login, range(LOGINS))
            load = server.drive("/", effort.seconds)
            logged_in = sum(logins)
        yield Sample(
            load.p99_seconds * 1000,
            f"{load.rate:,.0f} answers a second, {logged_in} of {LOGINS} logged in",
        )


def start(stage: Stage, effort: Effort) -> Iterator[Sample]:
    """Ours is started by its own command, which has fixed ports."""
    for port in (8000, 8001, 8002):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                raise CannotMeasure(f"port {port} is in use, but the launcher needs it")
    for _ in range(min(effort.rounds, 5)):
        bare = _seconds_to_start_bare(stage)
        own = _seconds_to_start_ours()
        yield Sample(own / bare, f"{own:.2f} s against {bare:.2f} s")


def _seconds_to_start_ours() -> float:
    began = time.monotonic()
    command = [sys.executable, "start_all_services.py"]
    starter = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        return seconds_until_healthy([8000, 8001, 8002], began)
    finally:
        starter.terminate()
        starter.wait(20)


def _seconds_to_start_bare(stage: Stage) -> float:
    began = time.monotonic()
    servers = [stage.server("benchmarks.baselines:product_app") for _ in range(3)]
    try:
        return seconds_until_healthy([server.port for server in servers], began)
    finally:
        for server in servers:
            server.stop()


def seconds_until_healthy(ports: list[int], began: float) -> float:
    """Return how long after `began`, of the monotonic clock, all of them answer."""
    waiting = set(ports)
    while waiting:
        for port in list(waiting):
            try:
                if requests.get(f"http://127.0.0.1:{port}/", timeout=2).ok:
                    waiting.remove(port)
            except requests.RequestException:
                time.sleep(0.02)
        if time.monotonic() - began > 60:
            raise CannotMeasure("the services did not start within a minute")
    return time.monotonic() - began


ROWS = [
    Row("read-memory", "GET /products/{pk}, memory, against a bare route",
        "≥", 0.88, "", "read-memory", read_in_memory),
    Row("read-redis", "GET /products/{pk}, Redis, against the same bare route",
        "≥", 0.58, "", "read-redis", read_on_redis),
    Row("traces-off", "GET /products/{pk}, memory, without traces, against an app without tracing",
        "≥", 0.98, "", "traces-off", read_untraced),
    Row("traces-on", "The same with a span for each, sent to a collector, against without traces",
        "≥", 0.4, "", "traces-on", read_traced),
    Row("order-redis", "POST /order, Redis, against a bare route that makes one PUT",
        "≥", 0.70, "", "order-redis", orders_on_redis),
    Row("order-of-five", f"An order of {ITEMS} items, Redis: cost by that of {ITEMS} orders of one",
        "≤", 0.8, "", "order-of-five", order_of_five),
    Row("hot-product", f"PUT reservations of one product, {AT_ONCE} at once, against a script each",
        "≥", 1.0, "", "hot-product", hot_product),
    Row("hot-product-two", "The same by two processes together, against two with scripts",
        "≥", 0.95, "", "hot-product-two", hot_product_by_two),
    Row("many-products", f"The same of 1,000 products, {AT_ONCE} at once",
        "≥", 0.70, "", "many-products", many_products),
    Row("one-at-a-time", "The same of 1,000 products, one at a time",
        "≥", 0.70, "", "one-at-a-time", one_at_a_time),
    Row("workers-read", f"GET /products/{{pk}}, Redis: {WORKERS} workers against 1",
        "≥", 1, "", "workers-read", workers_that_read),
    Row("workers-order", f"POST /order, Redis: {WORKERS} workers of each service against 1",
        "≥", 1, "", "workers-order", workers_that_order),
    Row("list-memory", "GET /products of a big shop in memory: growth of the process",
        "≤", 20, " MB", "memory-shops", list_in_memory),
    Row("page-memory", "A page of 100, memory: cost in a big shop by that in a small one",
        "≤", 1.2, "", "memory-shops", page_in_memory),
    Row("newest-memory", "The same backwards, order=newest",
        "≤", 1.2, "", "memory-shops", newest_in_memory),
    Row("search-memory", "A search with 20 hits, memory: cost in a big shop by a small one's",
        "≤", 1.3, "", "memory-shops", search_in_memory),
    Row("list-redis", "GET /products of a big shop on Redis: growth of the process",
        "≤", 20, " MB", "redis-shops", list_on_redis),
    Row("page-redis", "A page of 100, Redis: cost in a big shop by that in a small one",
        "≤", 1.2, "", "redis-shops", page_on_redis),
    Row("newest-redis", "The same backwards, order=newest",
        "≤", 1.2, "", "redis-shops", newest_on_redis),
    Row("search-redis", "A search with 20 hits, Redis: cost in a big shop by a small one's",
        "≤", 1.3, "", "redis-shops", search_on_redis),
    Row("orders-memory", "100 PLACED orders, newest first, memory: cost as above",
        "≤", 1.2, "", "memory-orders", orders_in_memory),
    Row("orders-redis", "100 PLACED orders, newest first, Redis: cost as above",
        "≤", 1.2, "", "redis-orders", orders_listed_on_redis),
    Row("logins", "GET / while 50 logins run: 99 of 100 get a response within",
        "≤", 50, " ms", "logins", health_during_logins),
    Row("start", "From the start command to three healthy services, against three bare apps",
        "≤", 1.6, "", "start", start),
]  # fmt: skip
"""Every row of the table of targets; what is promised of both storages is measured on both."""

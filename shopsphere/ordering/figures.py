"""What became of orders, counted for Prometheus."""

from shopsphere.metrics import CollectorRegistry, Counter, Gauge


class OrderFigures:
    """The counters of this service, and how many orders are unsettled in the whole shop."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.placed = Counter("orders_placed", "Orders placed.", registry=registry)
        self.refused = Counter("orders_refused", "Orders refused.", ["reason"], registry=registry)
        self.settled = Counter(
            "orders_settled",
            "Orders settled, by what they are now.",
            ["outcome"],
            registry=registry,
        )
        self.unsettled = Gauge(
            "orders_unsettled",
            "Orders being placed, cancelled or shipped now, or left so; NaN when not known.",
            registry=registry,
            multiprocess_mode="mostrecent",  # each worker counts all of them: no sum
        )

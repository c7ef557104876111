"""What became of orders, counted for Prometheus."""

from shopsphere.domain.errors import InsufficientQuantity, ProductNotFound
from shopsphere.domain.values import OrderStatus
from shopsphere.metrics import CollectorRegistry, Counter, Gauge


class OrderFigures:
    """The counters of this service, and how many orders are unsettled in the whole shop.

    Each is there from the start, at 0: Prometheus sees no increase in what begins with 1.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.placed = Counter("orders_placed", "Orders placed.", registry=registry)
        self.refused = Counter("orders_refused", "Orders refused.", ["reason"], registry=registry)
        self.settled = Counter(
            "orders_settled",
            "Orders settled, by what they are now.",
            ["outcome"],
            registry=registry,
        )
        self.settling_errors = Counter(
            "orders_settling_errors", "Settling failures.", registry=registry
        )
        self.inconsistent = Counter(
            "orders_inconsistent",
            "Items that the product service refused to release or ship.",
            registry=registry,
        )
        for refusal in (InsufficientQuantity, ProductNotFound):
            self.refused.labels(refusal.code)
        for outcome in set(OrderStatus) - {OrderStatus.NONE}:
            self.settled.labels(outcome.lower())
        self.unsettled = Gauge(
            "orders_unsettled",
            "Orders being placed, cancelled or shipped now, or left so; NaN when not known.",
            registry=registry,
            multiprocess_mode="mostrecent",  # each worker counts all of them: no sum
        )

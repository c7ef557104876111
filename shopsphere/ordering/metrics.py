"""Order outcomes, counted for Prometheus."""

from functools import partial

from shopsphere.domain.errors import InsufficientQuantity, PriceChanged, ProductNotFound
from shopsphere.domain.values import OrderStatus
from shopsphere.metrics import prometheus


class OrderMetrics:
    """The counters of this service, and the number of interrupted commands in the whole shop at
    the last round of settling.

    Each counter starts at 0, because Prometheus sees no increase in one that first appears as 1.
    """

    def __init__(self, registry: prometheus.CollectorRegistry) -> None:
        count = partial(prometheus.Counter, registry=registry)
        self.placed = count("orders_placed", "Orders placed.")
        self.refused = count("orders_refused", "Orders refused.", ["reason"])
        self.settled = count("orders_settled", "Orders settled, by outcome.", ["outcome"])
        self.settling_errors = count("orders_settling_errors", "Settling failures.")
        self.inconsistent = count(
            "orders_inconsistent", "Items that the product service refused to release or ship."
        )
        for refusal in (InsufficientQuantity, PriceChanged, ProductNotFound):
            self.refused.labels(refusal.code)
        for outcome in set(OrderStatus) - {OrderStatus.NONE}:
            self.settled.labels(outcome.lower())
        self.unsettled = prometheus.Gauge(
            "orders_unsettled",
            "Commands pending for longer than SETTLE_AFTER; NaN while settling fails.",
            registry=registry,
            multiprocess_mode="mostrecent",  # no sum, as each worker counts all of them
        )

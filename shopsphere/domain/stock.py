"""The rules of products, their stock and its reservations."""

from shopsphere.domain import errors
from shopsphere.domain.errors import ShopError
from shopsphere.domain.records import Applied, Hold, HoldState, ProductRecord, ProductState
from shopsphere.domain.values import MAX_ON_HAND, Product, Reservation

Naming = tuple[str, str]
"""A name of a product, and the revision of its search entries."""


def create(
    _: float, product: ProductRecord, name: str, price_cents: int, quantity: int
) -> Product | ShopError:
    """Put a new product on sale, with `quantity` units in stock."""
    if product.state is ProductState.NONE:
        product.state = ProductState.ON_SALE
        product.name, product.price_cents = name, price_cents
        product.received = product.available = quantity
    return errors.ProductNotFound() if product.state is ProductState.DELETED else product.product()


def update(
    _: float, product: ProductRecord, made: Applied, name: str | None, price_cents: int | None
) -> tuple[Product, Naming] | ShopError:
    """Change what is not None, once per command; also return the naming that it replaced.

    The command is the second half of the pk of `made`; it becomes the revision of a new name.
    """
    if not made.command:
        if product.state is not ProductState.ON_SALE:
            return errors.ProductNotFound()
        made.command = made.pk.partition(":")[2]
        made.old_name, made.old_revision = product.name, product.revision
        if name is not None:
            product.name, product.revision = name, made.command
        if price_cents is not None:
            product.price_cents = price_cents
    return product.product(), (made.old_name, made.old_revision)


def change_stock(
    _: float, product: ProductRecord, made: Applied, change: int, command: str
) -> tuple[Product, bool] | ShopError:
    """Add units, or remove them if negative, once per key or command.

    Return the product, and whether the key was used for this change before. A refused change leaves
    its key free.
    """
    if made.command == command:
        return product.product(), False
    if product.state is not ProductState.ON_SALE:
        return errors.ProductNotFound()
    if made.command:
        if made.change != change:
            return errors.IdempotencyKeyReused()
        return product.product(), True
    if product.available + change < 0:
        return errors.StockTooLow(available=product.available)
    if change > 0 and product.available + product.reserved + change > MAX_ON_HAND:
        return errors.StockLimit()
    product.received += change
    product.available += change
    made.change, made.command = change, command
    return product.product(), False


def delete(_: float, product: ProductRecord, command: str) -> tuple[Naming, bool] | ShopError:
    """Take a product off sale; its stock and holds stay.

    Return its last naming, and whether this command deleted it, rather than an earlier one.
    """
    if product.state is ProductState.NONE:
        return errors.ProductNotFound()
    if product.state is ProductState.ON_SALE:
        product.state, product.deleted_by = ProductState.DELETED, command
    return (product.name, product.revision), product.deleted_by == command


def reserve(
    _: float, product: ProductRecord, hold: Hold, quantity: int, unit_price_cents: int | None = None
) -> tuple[Reservation, bool] | ShopError:
    """Hold units for an order, once, if the price is still the given one; return whether this call
    took them.

    A refusal for price or lack of stock is remembered, so it is final for this order.
    """
    match hold.state:
        case HoldState.REFUSED:
            return errors.ReservationRefused(hold.available)
        case HoldState.PRICE_CHANGED:
            return errors.PriceChanged(hold.price_cents)
        case HoldState.RELEASED:
            return errors.ReservationReleased()
        case HoldState.HELD | HoldState.SHIPPED:
            if hold.quantity != quantity:
                return errors.ReservationConflict()
            return hold.reservation(), False
    if product.state is not ProductState.ON_SALE:
        return errors.ProductNotFound()
    if unit_price_cents not in (None, product.price_cents):
        hold.state, hold.price_cents = HoldState.PRICE_CHANGED, product.price_cents
        return errors.PriceChanged(product.price_cents)
    if product.available < quantity:
        hold.state, hold.available = HoldState.REFUSED, product.available
        return errors.ReservationRefused(product.available)
    product.available -= quantity
    product.reserved += quantity
    hold.state, hold.quantity = HoldState.HELD, quantity
    hold.price_cents, hold.product_name = product.price_cents, product.name
    return hold.reservation(), True


def release(_: float, product: ProductRecord, hold: Hold) -> ShopError | None:
    """Release units, once. This is remembered even if nothing was held, so that a delayed
    reservation is refused."""
    if hold.state is HoldState.SHIPPED:
        return errors.ReservationShipped()
    if hold.state is HoldState.HELD:
        product.available += hold.quantity
        product.reserved -= hold.quantity
    hold.state = HoldState.RELEASED
    hold.quantity = hold.price_cents = hold.available = 0
    hold.product_name = ""
    return None


def ship(_: float, product: ProductRecord, hold: Hold) -> ShopError | None:
    """Count held units as shipped, once; do nothing if the order is unknown here."""
    if hold.state in (HoldState.RELEASED, HoldState.REFUSED, HoldState.PRICE_CHANGED):
        return errors.ReservationReleased()
    if hold.state is HoldState.HELD:
        product.reserved -= hold.quantity
        product.shipped += hold.quantity
        hold.state = HoldState.SHIPPED
    return None

"""What one service consists of: the one thing that is kept in the state of its app."""

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from fastapi import Request

from shopsphere.metrics import RequestMetrics
from shopsphere.records import Opened
from shopsphere.settings import Settings
from shopsphere.tokens import Tokens

T = TypeVar("T")


@dataclass(slots=True)
class Service(Generic[T]):
    """One of the services. `opened`, `metrics` and `own` are there once it has started.

    `own` is what this service alone has, such as its `Products`.
    """

    name: str
    settings: Settings
    tokens: Tokens
    opened: Opened = field(init=False)
    metrics: RequestMetrics = field(init=False)
    own: T = field(init=False)
    cannot_start: str = ""


def service_of(request: Request) -> Service[Any]:
    """Return the service that a request came to."""
    service: Service[Any] = request.app.state.service
    return service

"""What a service consists of, kept in the state of its app."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Depends, Request

from shopsphere.deadline import Deadline
from shopsphere.metrics import RequestMetrics
from shopsphere.records import Opened
from shopsphere.settings import Settings
from shopsphere.tokens import Tokens

T = TypeVar("T")


@dataclass(slots=True)
class Service(Generic[T]):
    """One of the services. `opened`, `metrics` and `own` are set at startup.

    `own` holds the resources of this service alone, such as its `Products`.
    """

    name: str
    settings: Settings
    tokens: Tokens
    opened: Opened = field(init=False)
    metrics: RequestMetrics = field(init=False)
    own: T = field(init=False)


def service_of(request: Request) -> Service[Any]:
    """Return the service that handles this request."""
    service: Service[Any] = request.app.state.service
    return service


async def _own(request: Request) -> object:
    return service_of(request).own


OWN = Depends(_own)
"""The dependency on a service's own resources, which its `opening` yields."""


async def _deadline(request: Request) -> Deadline:
    deadline: Deadline = request.scope["shopsphere.deadline"]
    return deadline


RequestDeadline = Annotated[Deadline, Depends(_deadline)]

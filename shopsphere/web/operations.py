"""The routes of every service: health, readiness, metrics."""

from typing import Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, Field

from shopsphere import __version__
from shopsphere.domain.errors import StoreUnavailable
from shopsphere.metrics import exposition, prometheus
from shopsphere.records import StorageName
from shopsphere.web.access import METRICS_READER, anyone
from shopsphere.web.error_responses import ErrorBody
from shopsphere.web.service import service_of

OPERATIONS = {"operations": "Health checks and metrics."}
UNAVAILABLE = f"`{StoreUnavailable.code}`"
METRICS_EXAMPLE = 'http_requests_total{method="GET",route="/",status="200"} 3.0'


class Health(BaseModel):
    service: str = Field(examples=["product"])
    status: Literal["ok"] = "ok"
    storage: StorageName = Field(examples=["redis"])
    fallback: bool = Field(
        examples=[False], description="Memory was chosen only because no Redis responded at start."
    )
    version: str = Field(default=__version__, examples=[__version__])


operations = APIRouter(tags=["operations"])


@operations.get("/")
@anyone
async def health(request: Request) -> Health:
    """Responds while the process is running, even if its storage is unreachable."""
    service = service_of(request)
    return Health(
        service=service.name, storage=service.opened.storage, fallback=service.opened.is_fallback
    )


@operations.get("/ready", responses={503: {"model": ErrorBody, "description": UNAVAILABLE}})
@anyone
async def ready(request: Request) -> Health:
    """200 while the storage responds, 503 otherwise. Other services are not checked."""
    await service_of(request).opened.records.ping()
    return await health(request)


@operations.get(
    "/metrics",
    dependencies=[METRICS_READER],
    response_class=PlainTextResponse,
    responses={200: {"content": {"text/plain": {"example": METRICS_EXAMPLE}}}},
)
async def metrics(request: Request) -> Response:
    """Request counts and durations by route and status, in Prometheus format.

    If AUTH_REQUIRED is true, send METRICS_TOKEN as the bearer token.

    The order service also reports orders placed, refused and settled, and the commands pending at
    the last round of settling.
    """
    registry = service_of(request).metrics.registry
    return Response(exposition(registry), media_type=prometheus.CONTENT_TYPE_LATEST)

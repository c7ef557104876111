"""The routes of every service: health, readiness, metrics."""

from typing import Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, Field

from shopsphere import __version__
from shopsphere.metrics import exposition, prometheus
from shopsphere.records import StorageName
from shopsphere.web.access import ANYONE, METRICS_READER
from shopsphere.web.error_responses import ErrorBody
from shopsphere.web.service import service_of

OPERATIONS = {"operations": "Health checks and metrics."}
METRICS_EXAMPLE = 'http_requests_total{method="GET",route="/",status="200"} 3.0'


class Health(BaseModel):
    service: str = Field(examples=["product"])
    status: Literal["ok"] = "ok"
    storage: StorageName = Field(examples=["redis"])
    fallback: bool = Field(
        examples=[False],
        description="Whether data is kept in memory because Redis was unreachable at startup.",
    )
    version: str = Field(default=__version__, examples=[__version__])


operations = APIRouter(tags=["operations"])


@operations.get("/", dependencies=[ANYONE])
async def health(request: Request) -> Health:
    """Check that the service is running.

    It responds even while its storage is unreachable.
    """
    service = service_of(request)
    return Health(
        service=service.name, storage=service.opened.storage, fallback=service.opened.is_fallback
    )


@operations.get("/ready", dependencies=[ANYONE], responses={503: {"model": ErrorBody}})
async def ready(request: Request) -> Health:
    """Check that the storage is available.

    Returns 503 if it is not. Other services are not checked.
    """
    await service_of(request).opened.records.ping()
    return await health(request)


@operations.get(
    "/metrics",
    dependencies=[METRICS_READER],
    response_class=PlainTextResponse,
    responses={200: {"content": {"text/plain": {"example": METRICS_EXAMPLE}}}},
)
async def metrics(request: Request) -> Response:
    """Get metrics in Prometheus format.

    They include the number and duration of requests by route and status. The order service adds the
    numbers of orders placed, refused and settled, and of those interrupted for longer than
    SETTLE_AFTER.

    If AUTH_REQUIRED is true, send METRICS_TOKEN as the bearer token.
    """
    registry = service_of(request).metrics.registry
    return Response(exposition(registry), media_type=prometheus.CONTENT_TYPE_LATEST)

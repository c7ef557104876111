"""What holds for every service: how it starts, its errors, its health, its docs, its layers."""

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from operator import attrgetter
from typing import Annotated, Any, Literal

import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import State
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.types import ASGIApp

from shopsphere import __version__, redoc
from shopsphere.access import METRICS_READER, anyone
from shopsphere.deadline import Deadline
from shopsphere.domain.errors import CannotStart, StoreUnavailable
from shopsphere.error_answers import answer_errors, correct_openapi, error_responses
from shopsphere.layers import Cors, Limits, RequestLog
from shopsphere.logs import configure_logging
from shopsphere.metrics import CONTENT_TYPE, exposition
from shopsphere.records import Opened, StorageName
from shopsphere.settings import Settings
from shopsphere.slow_clients import give_up_endless_heads
from shopsphere.tokens import Tokens

log = logging.getLogger("shopsphere")

Resources = Callable[[State], AbstractAsyncContextManager[None]]

OPERATIONS = {"operations": "For whoever runs it: is it alive, can it serve, what does it do."}


FIGURES_EXAMPLE = """\
# HELP http_requests_total Requests answered.
# TYPE http_requests_total counter
http_requests_total{method="GET",route="/",status="200"} 3.0
"""


class Body(BaseModel):
    """What comes in: no fields but these, and nothing is taken for what it is not."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Public(BaseModel):
    """An answer, read off one of our values."""

    model_config = ConfigDict(from_attributes=True)


class Health(BaseModel):
    service: str
    status: Literal["ok"]
    storage: StorageName = Field(examples=["redis"])
    fallback: bool = Field(
        examples=[False], description="It is in memory only because no Redis answered at its start."
    )
    version: str = Field(examples=[__version__])


def create_app(
    service: str,
    *,
    description: str,
    routers: Iterable[APIRouter],
    open_storage: Callable[[Settings], Awaitable[Opened]],
    resources: Resources,
    tags: Mapping[str, str] = OPERATIONS,
    settings: Settings | None = None,
) -> FastAPI:
    """Return the app of a service.

    Its storage is opened at start and kept in `app.state.opened`; `resources` is entered then, to put
    further things of the service into the state. `tags` are the sections of its documentation, each
    with a sentence. Settings that are wrong stop the start, and so does a CannotStart of either.
    """
    problem: CannotStart | None = None
    try:
        settings = settings or Settings.load()
        configure_logging(service, settings)
    except CannotStart as error:
        settings, problem = Settings.model_construct(), error

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> Any:
        async with AsyncExitStack() as closing:
            try:
                if problem:
                    raise problem
                give_up_endless_heads(settings.order_timeout)
                app.state.opened = opened = await open_storage(settings)
                closing.push_async_callback(opened.records.close)
                await closing.enter_async_context(resources(app.state))
            except CannotStart as error:
                app.state.cannot_start = str(error)
                raise
            for variable, meant in Settings.misspelt():
                log.warning("%s is no setting. Is %s meant?", variable, meant)
            log.info("the %s service keeps its records in %s", service, opened.storage)
            if not settings.auth_required:
                log.warning(
                    "AUTH_REQUIRED is false: everybody may do everything; for development only"
                )
            yield

    app = FastAPIOffline(
        title=f"ShopSphere {service}s",
        description=description,
        version=__version__,
        openapi_tags=[
            {"name": name, "description": text} for name, text in {**tags, **OPERATIONS}.items()
        ],
        swagger_ui_parameters={"defaultModelsExpandDepth": 0, "displayRequestDuration": True},
        lifespan=lifespan,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.settings = settings
    app.state.service = service
    app.state.tokens = Tokens(settings.jwt_secret.get_secret_value(), settings.jwt_expires_minutes)
    # Not include_router: FastAPI 0.165 searches an included router twice, at each level, for each
    # request, and the hot routes would come after those of the docs.
    app.router.routes[:0] = [
        *(route for router in (*routers, _operations) for route in router.routes),
        redoc.ROUTE,
    ]
    answer_errors(app)
    correct_openapi(app)
    cors = Cors(  # around the limits, so that a browser can read their errors too
        Limits(_inner_layers(app), settings.order_timeout),
        allow_origins=settings.origins,
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=["Idempotent-Replayed", "Link", "Location", "Retry-After", "X-Request-ID"],
    )
    request_log = RequestLog(cors, app.state, logs_fields=settings.log_format == "json")
    app.middleware_stack = request_log
    app.state.metrics = request_log.metrics
    return app


def _inner_layers(app: FastAPI) -> ASGIApp:
    """Return those of FastAPI's layers whose work is not done by our own."""
    return ExceptionMiddleware(AsyncExitStackMiddleware(app.router), app.exception_handlers)


def serve(app: FastAPI, port: int) -> None:
    """Serve the app on this machine until it is interrupted; its lines are those of create_app."""
    uvicorn.run(app, host="127.0.0.1", port=port, log_config=None)


def from_state(path: str) -> object:
    """Return the dependency on this part of the app's state, such as `opened.store`."""
    find = attrgetter(f"app.state.{path}")

    async def part(request: Request) -> object:
        return find(request)

    return Depends(part)


async def _deadline(request: Request) -> Deadline:
    deadline: Deadline = request.scope["shopsphere.deadline"]
    return deadline


OpenedStorage = Annotated[Opened, from_state("opened")]
RequestDeadline = Annotated[Deadline, Depends(_deadline)]

_operations = APIRouter(tags=["operations"])


@_operations.get("/", summary="Is the process alive?")
@anyone
async def health(request: Request, opened: OpenedStorage) -> Health:
    """Answers whenever the process serves, also while its storage is away."""
    return Health(
        service=request.app.state.service,
        status="ok",
        storage=opened.storage,
        fallback=opened.is_fallback,
        version=__version__,
    )


@_operations.get("/ready", summary="Can it serve?", responses=error_responses(StoreUnavailable))
@anyone
async def ready(request: Request, opened: OpenedStorage) -> Health:
    """Answers 200 when the storage does too, 503 otherwise. Other services do not count."""
    await opened.records.ping()
    return await health(request, opened)


@_operations.get(
    "/metrics",
    summary="Figures for Prometheus",
    dependencies=[METRICS_READER],
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}, "example": FIGURES_EXAMPLE}}}
    },
)
async def metrics(request: Request) -> Response:
    """Requests, how they ended and how long they took, in the format of Prometheus.

    The order service also counts orders placed, refused and settled, and those unsettled now.
    """
    refresh = getattr(request.app.state, "refresh_figures", None)
    if refresh:
        await refresh()
    registry = request.app.state.metrics.registry
    return Response(exposition(registry), media_type=CONTENT_TYPE)

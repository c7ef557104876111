"""The app of every service: startup, errors, health, docs and layers."""

import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial

import uvicorn
from fastapi import APIRouter, FastAPI
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.types import ASGIApp

from shopsphere import __version__
from shopsphere.logs import configure_logging
from shopsphere.metrics import RequestMetrics
from shopsphere.records import Opened
from shopsphere.settings import CannotStart, Settings
from shopsphere.tokens import Tokens
from shopsphere.web import redoc
from shopsphere.web.access import guard
from shopsphere.web.error_responses import HANDLERS
from shopsphere.web.layers import RequestLayer
from shopsphere.web.openapi import correct_openapi
from shopsphere.web.operations import OPERATIONS, operations
from shopsphere.web.service import Service, T
from shopsphere.web.slow_clients import PROTOCOL
from shopsphere.web.tracing import TELEMETRY, set_defaults

log = logging.getLogger("shopsphere")


def create_app(
    name: str,
    description: str,
    tags: Mapping[str, str],
    routers: Iterable[APIRouter],
    open_storage: Callable[[Settings], Awaitable[Opened]],
    opening: Callable[[Service[T]], AbstractAsyncContextManager[T]],
    settings: Settings | None = None,
) -> FastAPI:
    """Return the app of a service.

    At startup it opens the storage, then enters `opening`, which yields the service's own resources
    for routes that depend on `OWN`. Invalid settings, or a CannotStart from either step, stop the
    startup.

    `description` may contain settings, such as `{user_service_url}`; `tags` describes each section
    of the docs.
    """
    problem: CannotStart | None = None
    try:
        settings = settings or Settings.load()
        configure_logging(name, settings)
    except CannotStart as error:
        settings, problem = Settings.model_construct(), error
    set_defaults(name)
    tokens = Tokens(settings.jwt_secrets, settings.jwt_expires_minutes)
    service = Service[T](name, settings, tokens)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, float]]:
        async with AsyncExitStack() as closing:
            if problem:
                raise problem
            service.metrics = RequestMetrics(name)
            service.opened = await open_storage(settings)
            closing.push_async_callback(service.opened.records.close)
            service.own = await closing.enter_async_context(opening(service))
            for variable, meant in Settings.misspelt():
                log.warning("Unknown setting %s. Did you mean %s?", variable, meant)
            log.info("the %s service stores its data in %s", name, service.opened.storage)
            if not settings.auth_required:
                log.warning("AUTH_REQUIRED is false: anyone can do anything; development only")
            # Scanning what exists by now for garbage would take a quarter of a read on Redis.
            gc.freeze()
            gc.set_threshold(5000)  # with the default, listing orders scans a big shop in memory
            yield {"head_seconds": settings.order_timeout}  # for `slow_clients`

    app = FastAPIOffline(
        title=f"ShopSphere {name}s",
        description=description.format_map(vars(settings)),
        version=__version__,
        servers=[{"url": "/"}],
        openapi_tags=[{"name": n, "description": t} for n, t in {**tags, **OPERATIONS}.items()],
        swagger_ui_parameters={"defaultModelsExpandDepth": 0, "persistAuthorization": True},
        lifespan=lifespan,
        redirect_slashes=False,
        telemetry=TELEMETRY,
        exception_handlers=HANDLERS,
    )
    app.state.service = service
    # With include_router, FastAPI 0.165 would search each router twice per request, and the hot
    # routes would come after those of the docs.
    routes = [route for router in (*routers, operations) for route in router.routes]
    app.router.routes[:0] = [*routes, redoc.ROUTE]
    for route in routes:
        if isinstance(route, APIRoute):
            guard(route, ignores_query=route in operations.routes)
    correct_openapi(app)
    app.build_middleware_stack = partial(_layers, app)  # type: ignore[method-assign]
    return app


def _layers(app: FastAPI) -> ASGIApp:
    """Return the app inside its layers, once all middleware and exception handlers are added.

    FastAPI's own layers are omitted where ours replace them; they would cost a fifth of the speed.
    """
    layers: ASGIApp = ExceptionMiddleware(
        AsyncExitStackMiddleware(app.router), app.exception_handlers
    )
    for middleware in reversed(app.user_middleware):
        layers = middleware.cls(layers, *middleware.args, **middleware.kwargs)
    return RequestLayer(layers, app.state.service)


def serve(app: FastAPI, port: int) -> None:
    """Serve the app on this machine until interrupted, with the logging that create_app set up."""
    uvicorn.run(app, host="127.0.0.1", port=port, http=PROTOCOL, log_config=None)

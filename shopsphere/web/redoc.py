"""Redoc's script, as fastapi-offline 1.7.7 brings it, but so that it asks nobody else for anything.

Without this, /redoc fetches its logo from a CDN: a request to strangers, and an error offline.
"""

from pathlib import Path

import fastapi_offline
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

SCRIPT = Path(fastapi_offline.__file__).parent / "static" / "redoc.standalone.js"
LOGO = b"https://cdn.redoc.ly/redoc/logo-mini.svg"
NOTHING = b"data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg'/>"


async def _answer(_: Request) -> Response:
    script = SCRIPT.read_bytes().replace(LOGO, NOTHING)
    return Response(script, media_type="text/javascript")


ROUTE = Route(f"/static-offline-docs/{SCRIPT.name}", _answer)
"""Comes before the folder in which the script lies."""

"""Redoc's script from fastapi-offline 1.7.7, changed so that it makes no external requests.

Unchanged, it loads its logo from a CDN: a request to a third party, which fails offline.
"""

from pathlib import Path

import fastapi_offline
from starlette.responses import Response
from starlette.routing import Route

SCRIPT = Path(fastapi_offline.__file__).parent / "static" / "redoc.standalone.js"
LOGO = b"https://cdn.redoc.ly/redoc/logo-mini.svg"
NOTHING = b"data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg'/>"


ROUTE = Route(
    f"/static-offline-docs/{SCRIPT.name}",
    lambda _: Response(SCRIPT.read_bytes().replace(LOGO, NOTHING), media_type="text/javascript"),
)
"""Must precede the route of the folder that contains the script."""

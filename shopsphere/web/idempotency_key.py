"""The Idempotency-Key header (draft-ietf-httpapi-idempotency-key-header).

Requests with the same key take effect once. Keys are separate for each user and route.
"""

import hashlib
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Request, Response

from shopsphere.domain.errors import InvalidRequest
from shopsphere.tokens import Caller
from shopsphere.web.examples import headers

MAX_LENGTH = 255
KEY = "Makes the request safe to retry: choose 1 to 255 characters, such as a UUID."


@dataclass(frozen=True, slots=True)
class Once:
    """A request that takes effect once per key, and its response.

    `key` is a digest of route, user and key; None without a key.
    """

    key: str | None
    request: Request
    response: Response

    def respond(self, is_replay: bool, path: str | None = None) -> None:
        """Set `Idempotent-Replayed` if the request took effect before, and `Location` to the path
        of what it created, with a proxy's prefix."""
        if is_replay:
            self.response.headers["Idempotent-Replayed"] = "true"
        if path:
            self.response.headers["Location"] = self.request.scope.get("root_path", "") + path


async def _once(
    request: Request,
    response: Response,
    idempotency_key: Annotated[str | None, Header(alias="Idempotency-Key", description=KEY)] = None,
) -> Once:
    if idempotency_key is None:
        return Once(None, request, response)
    is_valid = 1 <= len(idempotency_key) <= MAX_LENGTH and idempotency_key.isprintable()
    if len(request.headers.getlist("idempotency-key")) > 1 or not is_valid:
        raise InvalidRequest(
            ("Idempotency-Key", f"must be sent once, with 1 to {MAX_LENGTH} printable characters")
        )
    caller: Caller | None = request.scope.get("shopsphere.caller")
    parts = request.scope["route"].path, caller.user_pk if caller else "", idempotency_key
    return Once(hashlib.sha256("\0".join(parts).encode()).hexdigest(), request, response)


OncePerKey = Annotated[Once, Depends(_once)]

REPLAY_HEADER = headers(
    {"Idempotent-Replayed": "`true` if an earlier request with this Idempotency-Key succeeded."}
)
LOCATION = headers({"Location": "The path of the created resource."})
"""For successful responses of routes that take a key."""

"""The Idempotency-Key header (draft-ietf-httpapi-idempotency-key-header).

Requests with the same key count once, separately for each user and route.
"""

import hashlib
from typing import Annotated

from fastapi import Depends, Header, Request, Response

from shopsphere.domain.errors import InvalidRequest
from shopsphere.tokens import Caller
from shopsphere.web.examples import headers

MAX_LENGTH = 255
KEY = "1 to 255 characters of your own, such as a UUID: this request counts once per key."


async def _key(
    request: Request, idempotency_key: Annotated[str | None, Header(description=KEY)] = None
) -> str | None:
    """Return a digest of route, user and key; None without a key."""
    if idempotency_key is None:
        return None
    is_valid = 1 <= len(idempotency_key) <= MAX_LENGTH and idempotency_key.isprintable()
    if len(request.headers.getlist("idempotency-key")) > 1 or not is_valid:
        raise InvalidRequest(
            ("Idempotency-Key", f"must be one text of 1 to {MAX_LENGTH} printable characters")
        )
    caller: Caller | None = request.scope.get("shopsphere.caller")
    parts = request.scope["route"].path, caller.user_pk if caller else "", idempotency_key
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


IdempotencyKey = Annotated[str | None, Depends(_key)]


def show_replay(response: Response, is_replay: bool) -> None:
    """Mark the response as a replay if the request had counted before."""
    if is_replay:
        response.headers["Idempotent-Replayed"] = "true"


REPLAY_HEADER = headers(
    {"Idempotent-Replayed": "`true` when a request with this Idempotency-Key counted before."}
)
"""For the successful response of a route that takes a key."""

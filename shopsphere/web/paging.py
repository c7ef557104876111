"""Lists over HTTP: one page with a Link to the next (RFC 8288), or the whole list, streamed."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter
from pydantic.config import JsonDict

from shopsphere.domain.pks import PK_PATTERN
from shopsphere.domain.values import Page
from shopsphere.lists import CURSOR_PATTERN
from shopsphere.web.examples import header
from shopsphere.web.schemas import pk_of

MAX_LIMIT = 1000
DEFAULT_LIMIT = 100
STREAMED_AT_ONCE = 500
"""How many items of a whole list are read and held at a time."""

T = TypeVar("T")
S = TypeVar("S")
ReadPage = Callable[[str | None, int], Awaitable[Page[T]]]


def _digits(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch("[0-9]{1,9}", value):
        raise ValueError("must be a whole number from 1 to 1000")
    return value


Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT), BeforeValidator(_digits)]


@dataclass(frozen=True, slots=True)
class Paging:
    """The requested part of a list; the whole list if `limit` is None."""

    limit: int | None
    after: str | None


def _paging(pattern: str | None, or_what: str = "", *checks: AfterValidator) -> object:
    """Return the dependency on the `Paging` of a list with cursors of this pattern.

    A cursor without a limit means a page of DEFAULT_LIMIT.
    """
    from_link = f"Cursor from the previous page's `Link` header{or_what}."
    schema: JsonDict = {"pattern": f"^({pattern})$"} if pattern else {}
    cursor = Query(min_length=1, description=from_link, json_schema_extra=schema)

    async def paging(
        limit: Annotated[
            Limit | None, Query(description="Items in the page. Without it: all, streamed.")
        ] = None,
        after: Annotated[str | None, cursor, *checks] = None,
    ) -> Paging:
        return Paging(DEFAULT_LIMIT if limit is None and after is not None else limit, after)

    return Depends(paging)


AnyPaging = Annotated[Paging, _paging(None)]
PagingByEntry = Annotated[
    Paging, _paging(f"{CURSOR_PATTERN}|{PK_PATTERN}", ", or the `pk` of something in this list")
]
PagingByPk = Annotated[Paging, _paging(PK_PATTERN, "", pk_of("an order"))]

WITH_LINK: dict[int | str, dict[str, Any]] = {
    200: header("Link", 'The next page, `<url>; rel="next"`, while there is more.')
}
"""For the `responses` of a route that lists."""


async def listing(
    request: Request, paging: Paging, read: ReadPage[T], shown: TypeAdapter[list[S]]
) -> Response:
    """Return the requested part of a list as a JSON array, serialised by `shown`."""
    page = await read(paging.after, paging.limit or STREAMED_AT_ONCE)
    if paging.limit is None:
        return StreamingResponse(_stream(page, read, shown), media_type="application/json")
    response = Response(b"[%b]" % _items(page, shown), media_type="application/json")
    if page.next_after is not None:
        url = request.url.include_query_params(limit=paging.limit, after=page.next_after)
        response.headers["Link"] = f'<{url}>; rel="next"'
    return response


async def _stream(
    page: Page[T], read: ReadPage[T], shown: TypeAdapter[list[S]]
) -> AsyncIterator[bytes]:
    before = b"["
    while True:
        if page.items:
            yield before + _items(page, shown)
            before = b","
        if page.next_after is None:
            break
        page = await read(page.next_after, STREAMED_AT_ONCE)
    yield b"]" if before == b"," else b"[]"


def _items(page: Page[T], shown: TypeAdapter[list[S]]) -> bytes:
    """Return the items as JSON, separated by commas."""
    return shown.dump_json(shown.validate_python(page.items, from_attributes=True))[1:-1]

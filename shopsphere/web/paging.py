"""Lists over HTTP: one page with a Link to the next (RFC 8288), or the whole list, streamed."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Literal
from urllib.parse import urlencode

from fastapi import Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, BeforeValidator, Field, TypeAdapter, WithJsonSchema

from shopsphere.domain.values import Page, S, T
from shopsphere.records import END, Span
from shopsphere.web.error_responses import Responses
from shopsphere.web.examples import headers

MAX_LIMIT = 1000
DEFAULT_LIMIT = 100
STREAMED_AT_ONCE = 500
"""How many items of a whole list are read and held at a time."""
AFTER = "Continue after this item: a cursor from `Link` or `X-Cursor`, or (not in searches) a `pk`."

ReadPage = Callable[[str | None, int], Awaitable[Page[T]]]


def _digits(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch("[0-9]{1,9}", value):
        raise ValueError("must be a whole number from 1 to 1000")
    return value


Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT), BeforeValidator(_digits)]


MOMENT = r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+ -]\d\d:\d\d)"


def _microseconds(text: object) -> int:
    """Return an RFC 3339 time as Unix time. In a query, `+` can arrive as a space."""
    if re.fullmatch(MOMENT, str(text)):
        with suppress(ValueError):  # such as month 13
            moment = datetime.fromisoformat(str(text).upper().replace(" ", "+"))
            return round(moment.timestamp() * 1_000_000)
    raise ValueError("must be a time with an offset, such as 2026-11-24T14:43:51Z")


Moment = Annotated[
    int, BeforeValidator(_microseconds), WithJsonSchema({"type": "string", "format": "date-time"})
]


class Paging(BaseModel):
    """The requested part of a list; the whole list without `limit` and `after`."""

    limit: Limit | None = Field(
        None, description="Maximum number of items. Default: 100 with `after`, otherwise all."
    )
    after: str | None = Field(None, min_length=1, description=AFTER)


class ByEntry(Paging):
    """Paging of a list that can be read backwards."""

    order: Literal["newest"] | None = Field(
        None, description="`newest` lists the newest first; `after` then continues with older ones."
    )

    @property
    def span(self) -> Span:
        return Span(newest_first=self.order is not None)


class InTime(ByEntry):
    """Paging of a list whose entries have a time."""

    since: Moment | None = Field(None, description="Only orders from this time or later.")
    until: Moment | None = Field(None, description="Only orders from before this time.")

    @property
    def span(self) -> Span:
        until = END if self.until is None else self.until
        return super().span._replace(since=self.since or 0, until=until)


AnyPaging = Annotated[Paging, Query()]
PagingByEntry = Annotated[ByEntry, Query()]
PagingInTime = Annotated[InTime, Query()]

LINK = headers(
    {
        "Link": 'The next page, as `<path>; rel="next"`; absent on the last page.',
        "X-Cursor": "The cursor of the last item, to continue from later.",
    }
)
LIST: Responses = {200: {"headers": LINK}}
COUNTED_LIST: Responses = {
    200: {"headers": LINK | headers({"X-Total-Count": "The number of items on all pages."})}
}
"""For the `responses` of a route that returns a list."""


async def listing(
    request: Request, paging: Paging, read: ReadPage[T], adapter: TypeAdapter[list[S]]
) -> Response:
    """Return the requested part of a list as a JSON array, serialised by `adapter`."""
    limit = DEFAULT_LIMIT if paging.limit is None and paging.after else paging.limit
    page = await read(paging.after, limit or STREAMED_AT_ONCE)
    if limit is None:
        stream = _stream(page, read, adapter)
        response: Response = StreamingResponse(stream, media_type="application/json")
    else:
        response = Response(b"[%b]" % _items(page, adapter), media_type="application/json")
    if page.total is not None:
        response.headers["X-Total-Count"] = str(page.total)
    if limit is not None and page.cursor is not None:
        response.headers["X-Cursor"] = page.cursor
        if not page.is_last:
            response.headers["Link"] = f'<{_next(request, limit, page.cursor)}>; rel="next"'
    return response


def _next(request: Request, limit: int, cursor: str) -> str:
    asked = {**request.query_params, "limit": limit, "after": cursor}
    for moment in {"since", "until"} & asked.keys():
        asked[moment] = str(asked[moment]).replace(" ", "+")
    return f"{request.url.path}?{urlencode(asked)}"


async def _stream(
    page: Page[T], read: ReadPage[T], adapter: TypeAdapter[list[S]]
) -> AsyncIterator[bytes]:
    before = b"["
    while True:
        if page.items:
            yield before + _items(page, adapter)
            before = b","
        if page.next_after is None:
            break
        page = await read(page.next_after, STREAMED_AT_ONCE)
    yield b"]" if before == b"," else b"[]"


def _items(page: Page[T], adapter: TypeAdapter[list[S]]) -> bytes:
    """Return the items as JSON, separated by commas."""
    return adapter.dump_json(adapter.validate_python(page.items, from_attributes=True))[1:-1]

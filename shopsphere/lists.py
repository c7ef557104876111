"""Lists in order of entry, and their cursors: positions in one list, which never expire."""

import asyncio
import hashlib
import re

from shopsphere.domain.errors import InvalidRequest
from shopsphere.domain.pks import is_pk
from shopsphere.domain.values import Page
from shopsphere.records import Listing, R, Records, Span


def cursor_of(listing: Listing, position: int) -> str:
    """Return the cursor of a position, valid for this list only."""
    return f"{position}-{_digest(listing)}"


async def page_of(
    records: Records, listing: Listing, span: Span, after: str | None, limit: int, kind: type[R]
) -> Page[R]:
    """Return the records of this kind of up to `limit` members of a list.

    The total of the page is that of the span. `after` is a cursor of this list or the pk of a
    member; otherwise raise InvalidRequest.
    """
    rest = span if after is None else span.after(await _position(records, listing, after))
    entries, total = await asyncio.gather(
        records.entries(listing, rest, limit + 1), records.count(listing, span)
    )
    is_last = len(entries) <= limit
    entries = entries[:limit]
    found = await records.read(*(kind(pk=entry.member) for entry in entries))
    cursor = cursor_of(listing, entries[-1].position) if entries else None
    return Page(found, cursor, is_last, total)


async def _position(records: Records, listing: Listing, after: str) -> int:
    cursor = re.fullmatch(f"([0-9]{{1,16}})-{_digest(listing)}", after)
    if cursor:
        return int(cursor[1])
    found = await records.position(listing, after) if is_pk(after) else None
    if found is None:
        raise InvalidRequest(
            ("after", "must be a cursor of this list, from Link or X-Cursor, or the pk of an item")
        )
    return found


def _digest(listing: Listing) -> str:
    return hashlib.sha256(":".join(listing).encode()).hexdigest()[:8]

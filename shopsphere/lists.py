"""Lists in order of entry, and their cursors: positions in one list, which never expire."""

import hashlib
import re
from functools import lru_cache

from shopsphere.domain.errors import InvalidRequest
from shopsphere.domain.pks import is_pk
from shopsphere.records import Entry, Listing, Records

CURSOR_PATTERN = "[0-9]{1,16}-[0-9a-f]{8}"


def cursor_of(listing: Listing, position: int) -> str:
    """Return the cursor of a position, valid for this list only."""
    return f"{position}-{_digest(listing)}"


async def entries_after(
    records: Records, listing: Listing, after: str | None, limit: int
) -> list[Entry]:
    """Return up to `limit` entries of a list.

    `after` is a cursor of this list or the pk of a member. Raise InvalidRequest for anything else.
    """
    position = 0 if after is None else await _position(records, listing, after)
    return await records.entries(listing, position, limit)


async def _position(records: Records, listing: Listing, after: str) -> int:
    if re.fullmatch(CURSOR_PATTERN, after):
        position, _, digest = after.partition("-")
        if digest == _digest(listing):
            return int(position)
    elif is_pk(after):
        found = await records.position(listing, after)
        if found is not None:
            return found
    raise InvalidRequest(
        ("after", "must be a cursor from a Link header of this list, or the pk of something in it")
    )


@lru_cache(1000)
def _digest(listing: Listing) -> str:
    return hashlib.sha256(":".join(listing).encode()).hexdigest()[:8]

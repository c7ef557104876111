"""Substring search: both storages keep every suffix of every folded name, sorted.

An entry is `suffix NUL pk NUL revision`. Suffixes are truncated, so a search checks the whole name.
Names have no control characters, so NUL sorts before anything in them. UTF-8 bytes sort as code
points do, so Redis and memory agree on the order.
"""

import re
import secrets
import unicodedata

from shopsphere.domain.errors import InvalidRequest
from shopsphere.domain.pks import is_pk
from shopsphere.domain.values import MAX_NAME_INPUT

SUFFIX_BYTES = 30
"""Keeps an entry within 64 bytes, the longest that Redis packs in small sorted sets."""


ACCENTS = re.compile("[\u0300-\u036f]")
SAME_LETTERS = str.maketrans(
    {"ł": "l", "đ": "d", "ø": "o", "ħ": "h", "ŧ": "t", "æ": "ae", "œ": "oe", "\u0131": "i"}
    | dict.fromkeys("\u2018\u2019\u02bc", "'")
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-")
)
"""Letters that Unicode does not decompose, apostrophes and hyphens, with their replacements."""


def fold(text: str) -> str:
    """Return `text` normalized for comparison: NFKD without accents, then Unicode case folding.

    Folding works character by character, so a part of a name folds to a part of the folded name.
    """
    letters = ACCENTS.sub("", unicodedata.normalize("NFKD", text[:MAX_NAME_INPUT]))
    return letters.casefold().translate(SAME_LETTERS)


def new_revision() -> str:
    """Return an id that distinguishes a product's entries for one name from those for others.

    It has only 6 characters, because every entry contains it.
    """
    return secrets.token_urlsafe(4)


def entries(name: str, pk: str, revision: str) -> set[str]:
    """Return all index entries of a product with this name."""
    folded = fold(name)
    return {f"{prefix(folded[start:])}\0{pk}\0{revision}" for start in range(len(folded))}


def first_match(name: str, pk: str, revision: str, folded_text: str) -> str:
    """Return the entry at which a search finds a product with this name, or "" if it does not.

    A name that contains the text three times has three matching entries; only the first counts.
    """
    folded = fold(name)
    start = folded.find(folded_text)
    return f"{prefix(folded[start:])}\0{pk}\0{revision}" if start >= 0 else ""


def prefix(folded: str) -> str:
    """Return a suffix as entries store it, or the prefix shared by all entries that can match."""
    return folded.encode()[:SUFFIX_BYTES].decode(errors="ignore")


def pk_of(entry: str) -> str:
    return entry.split("\0")[1]


def to_cursor(entry: str) -> str:
    """Return the cursor of an entry: opaque and URL-safe."""
    return entry.rpartition("\0")[0].encode().hex()


def from_cursor(cursor: str, folded_text: str) -> str:
    """Return a string that sorts after the entry of this cursor and before the next product's.

    Raise InvalidRequest if the cursor cannot belong to this search.
    """
    try:
        suffix, _, pk = bytes.fromhex(cursor).decode().partition("\0")
    except ValueError:
        suffix, pk = "", ""
    if not is_pk(pk) or not suffix.startswith(prefix(folded_text)):
        raise InvalidRequest(
            ("after", "is not a cursor of this search; use one from Link or X-Cursor")
        )
    return f"{suffix}\0{pk}\1"

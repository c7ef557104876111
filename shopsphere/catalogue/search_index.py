"""Finding text anywhere in a name: both storages keep every suffix of every folded name, sorted.

An entry is `suffix NUL pk NUL revision`. Suffixes are cut, so a reader checks the whole name. A
name has no control characters, so NUL sorts before anything in it. UTF-8 sorts by bytes as strings
do by code points, so that Redis and memory agree on the order.
"""

import secrets
import unicodedata

from shopsphere.domain.errors import InvalidRequest
from shopsphere.domain.pks import is_pk

SUFFIX_BYTES = 30
"""With these an entry has 64 bytes at most: what Redis keeps packed in small sorted sets."""


def fold(text: str) -> str:
    """Return `text` as it is compared: NFC, then Unicode case folding.

    Folding goes character by character, so a part of a name folds to a part of the folded name.
    """
    return unicodedata.normalize("NFC", text).casefold()


def new_revision() -> str:
    """Return what tells the entries of one naming of a product from those of its others.

    It is short, 6 characters, as every entry has it.
    """
    return secrets.token_urlsafe(4)


def entries(name: str, pk: str, revision: str) -> set[str]:
    """Return all index entries of a product with this name."""
    folded = fold(name)
    return {f"{prefix(folded[start:])}\0{pk}\0{revision}" for start in range(len(folded))}


def split(entry: str) -> tuple[str, str, str]:
    """Return suffix, pk and revision of an entry."""
    suffix, pk, revision = entry.split("\0")
    return suffix, pk, revision


def is_first_match(folded_name: str, folded_text: str, suffix: str) -> bool:
    """Tell whether this suffix is where `folded_text` first stands in the name.

    A name that contains the text three times has three entries: just one of them counts.
    """
    start = folded_name.find(folded_text)
    return start >= 0 and prefix(folded_name[start:]) == suffix


def prefix(folded: str) -> str:
    """Return what an entry keeps of a suffix, or what every entry that can match begins with."""
    return folded.encode()[:SUFFIX_BYTES].decode(errors="ignore")


def to_cursor(suffix: str, pk: str) -> str:
    """Return the cursor that stands for an entry: opaque, safe in a URL."""
    return f"{suffix}\0{pk}".encode().hex()


def from_cursor(cursor: str, folded_text: str) -> str:
    """Return a string that sorts after the entry of this cursor and before the next product's.

    Raise InvalidRequest when the cursor cannot belong to this search.
    """
    try:
        suffix, _, pk = bytes.fromhex(cursor).decode().partition("\0")
    except ValueError:
        suffix, pk = "", ""
    if not is_pk(pk) or not suffix.startswith(prefix(folded_text)):
        raise InvalidRequest(
            ("after", "is not a cursor of this search; take it from a Link header")
        )
    return f"{suffix}\0{pk}\1"

"""Primary keys: ULIDs, which carry the moment they were made."""

import re
from datetime import UTC, datetime

from ulid import ULID

PK_LENGTH = 26
PK_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
PK_PATTERN = f"[0-7][{PK_ALPHABET}]{{{PK_LENGTH - 1}}}"
_PK = re.compile(PK_PATTERN)
_TO_PYTHONS_BASE_32 = str.maketrans(PK_ALPHABET, "0123456789ABCDEFGHIJKLMNOPQRSTUV")

_last_pk = 0


def new_pk() -> str:
    """Return a new ULID, greater than every one this process made before, whatever the clock does.

    So what one process creates one after the other sorts in that order, even within one
    millisecond.
    """
    global _last_pk
    _last_pk = max(int(ULID()), _last_pk + 1)
    return str(ULID.from_int(_last_pk))


def is_pk(text: str) -> bool:
    """Tell whether `text` can be a pk: 26 characters of Crockford's base 32, upper case."""
    return _PK.fullmatch(text) is not None


class TimedByPk:
    """Something with a pk, created at the moment that its pk says."""

    __slots__ = ()
    pk: str

    @property
    def created_at(self) -> datetime:
        """When it was created, in UTC, to the millisecond: the first 10 characters of its pk."""
        milliseconds = int(self.pk[:10].translate(_TO_PYTHONS_BASE_32), 32)
        return datetime.fromtimestamp(milliseconds / 1000, UTC)

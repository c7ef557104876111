"""Primary keys: ULIDs, which contain their creation time."""

import re
from datetime import UTC, datetime

from ulid import ULID

PK_LENGTH = 26
PK_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
PK_PATTERN = f"[0-7][{PK_ALPHABET}]{{{PK_LENGTH - 1}}}"
_PK = re.compile(PK_PATTERN)
_TO_PYTHONS_BASE_32 = str.maketrans(PK_ALPHABET, "0123456789ABCDEFGHIJKLMNOPQRSTUV")

NO_PK = "0" * PK_LENGTH
"""The pk of nothing. A text that cannot be a pk is read as this, so it is not found."""

_last_pk = 0


def new_pk() -> str:
    """Return a new ULID, greater than all earlier ones of this process, whatever the clock does.

    So pks made by one process sort in order of creation, even within one millisecond.
    """
    global _last_pk
    _last_pk = max(int(ULID()), _last_pk + 1)
    return str(ULID.from_int(_last_pk))


def is_pk(text: str) -> bool:
    """Return whether `text` can be a pk: 26 characters of Crockford's base 32, upper case."""
    return _PK.fullmatch(text) is not None


class TimedByPk:
    """Anything whose creation time is read from its pk."""

    __slots__ = ()
    pk: str

    @property
    def created_at(self) -> str:
        """The creation time, from the first 10 characters of the pk."""
        return timestamp(int(self.pk[:10].translate(_TO_PYTHONS_BASE_32), 32))


def timestamp(milliseconds: int) -> str:
    """Return a Unix time as every response shows it: `2026-11-24T14:43:51.304Z`."""
    time = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return f"{time.isoformat(timespec='milliseconds')[:-6]}Z"

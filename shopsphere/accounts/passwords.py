"""Passwords, hashed and verified by passlib in a few threads."""

import unicodedata

from anyio import CapacityLimiter, to_thread
from passlib.context import CryptContext

HASHING_THREADS = 2
"""A hash takes a third of a second of CPU time without the GIL, so more threads would only starve
other requests."""


class Passwords:
    """Hashes passwords in NFC, as keyboards differ in how they compose letters.

    bcrypt_sha256 uses every byte; plain bcrypt ignores those after 72.
    """

    def __init__(self, rounds: int) -> None:
        self._context = CryptContext(schemes=["bcrypt_sha256"], bcrypt_sha256__rounds=rounds)
        self._nobodys_hash = f"$bcrypt-sha256$v=2,t=2b,r={rounds}${'.' * 22}${'.' * 31}"
        self._limiter = CapacityLimiter(HASHING_THREADS)

    async def hash(self, password: str) -> str:
        """Return a salted hash of the password."""
        composed = unicodedata.normalize("NFC", password)
        hashed: str = await to_thread.run_sync(self._context.hash, composed, limiter=self._limiter)
        return hashed

    def is_outdated(self, password_hash: str) -> bool:
        """Return whether a hash was made with a different BCRYPT_ROUNDS."""
        return self._context.needs_update(password_hash)

    async def verify(self, password: str, password_hash: str | None) -> bool:
        """Return whether the password matches this hash, in NFC or as it was typed, which is what
        version 0.1.0 hashed.

        For None, which stands for an unknown user, return false after the same time.
        """
        hashed = password_hash or self._nobodys_hash
        for each in dict.fromkeys((unicodedata.normalize("NFC", password), password)):
            if await to_thread.run_sync(self._context.verify, each, hashed, limiter=self._limiter):
                return password_hash is not None
        return False

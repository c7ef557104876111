"""Passwords, hashed and verified by passlib in a few threads."""

from anyio import CapacityLimiter, to_thread
from passlib.context import CryptContext

HASHING_THREADS = 2
"""A hash takes a third of a second of CPU time without the GIL, so more threads would only starve
other requests."""


class Passwords:
    """Hashes passwords. bcrypt_sha256 uses every byte; plain bcrypt ignores those after 72."""

    def __init__(self, rounds: int) -> None:
        self._context = CryptContext(
            schemes=["bcrypt_sha256"], bcrypt_sha256__rounds=rounds, bcrypt_sha256__ident="2b"
        )
        self._nobodys_hash = f"$bcrypt-sha256$v=2,t=2b,r={rounds}${'.' * 22}${'.' * 31}"
        self._limiter = CapacityLimiter(HASHING_THREADS)

    async def hash(self, password: str) -> str:
        """Return a salted hash of the password."""
        hashed: str = await to_thread.run_sync(self._context.hash, password, limiter=self._limiter)
        return hashed

    async def verify(self, password: str, password_hash: str | None) -> bool:
        """Return whether the password matches this hash.

        For None, which stands for an unknown user, return false after the same time.
        """
        hashed = password_hash or self._nobodys_hash
        matches: bool = await to_thread.run_sync(
            self._context.verify, password, hashed, limiter=self._limiter
        )
        return matches and password_hash is not None

"""Passwords, hashed and verified by passlib in their own few threads."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Self

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
        self._threads = ThreadPoolExecutor(HASHING_THREADS, thread_name_prefix="hashing")

    async def hash(self, password: str) -> str:
        """Return a salted hash of the password."""
        loop = asyncio.get_running_loop()
        hashed: str = await loop.run_in_executor(self._threads, self._context.hash, password)
        return hashed

    async def verify(self, password: str, password_hash: str | None) -> bool:
        """Return whether the password matches this hash.

        For None, which stands for an unknown user, return false after the same time.
        """
        loop = asyncio.get_running_loop()
        hashed = password_hash or self._nobodys_hash
        matches: bool = await loop.run_in_executor(
            self._threads, self._context.verify, password, hashed
        )
        return matches and password_hash is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Release the threads; work that has not begun is dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)

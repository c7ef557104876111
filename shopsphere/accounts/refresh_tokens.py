"""Refresh tokens: `<user pk>.<session id>.<number>.<MAC>`; nothing that is stored is a token."""

import hmac
from collections.abc import Sequence
from typing import NamedTuple


class RefreshToken(NamedTuple):
    """The content of a refresh token: its session, and its number in that session."""

    user_pk: str
    session_id: str
    number: int


class RefreshTokens:
    """Writes and reads refresh tokens, with HMAC-SHA256 under keys derived from the secrets."""

    def __init__(self, secrets: Sequence[str]) -> None:
        """Tokens are written with the first secret, and read with any."""
        self._keys = [hmac.digest(each.encode(), b"refresh token", "sha256") for each in secrets]

    def write(self, token: RefreshToken) -> str:
        """Return the text of a token."""
        text = ".".join(map(str, token))
        return f"{text}.{_mac(self._keys[0], text)}"

    def read(self, text: str) -> RefreshToken | None:
        """Return the content of a token, or None if its MAC is wrong, which is checked first."""
        signed, _, mac = text.rpartition(".")
        given = mac.encode(errors="replace")
        if not any(hmac.compare_digest(_mac(key, signed).encode(), given) for key in self._keys):
            return None
        user_pk, session_id, number = signed.split(".")
        return RefreshToken(user_pk, session_id, int(number))


def _mac(key: bytes, text: str) -> str:
    return hmac.digest(key, text.encode(errors="replace"), "sha256").hex()

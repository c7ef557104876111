"""Access tokens: JWTs signed with HS256 (RFC 7519), every claim required and checked."""

import logging
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import jwt

from shopsphere.domain.errors import InvalidToken
from shopsphere.domain.values import Role

log = logging.getLogger("shopsphere.tokens")

ISSUER = AUDIENCE = "shopsphere"
REQUIRED_CLAIMS = ["sub", "role", "iss", "aud", "iat", "exp"]
LEEWAY_SECONDS = 30
"""How far the clocks of two machines may differ."""

# PyJWT 2.15 warns at every use of a secret under 32 bytes. The settings refuse one where
# AUTH_REQUIRED is true, and test_connection.py warns of it otherwise.
warnings.filterwarnings("ignore", category=jwt.InsecureKeyLengthWarning)


class Caller(NamedTuple):
    """The subject of a token: the pk of a user or the name of a service."""

    user_pk: str
    role: Role


class Tokens:
    """Issues and reads access tokens; all services share the secret.

    A token is valid until it expires, with the role that its user had when it was issued. A new
    password, a new role or the end of its session does not revoke it. Changing JWT_SECRET
    invalidates all tokens.
    """

    def __init__(self, secrets: Sequence[str], expires_minutes: int) -> None:
        """Tokens are signed with the first secret, and verified with any."""
        self._secrets = secrets
        self.expires_seconds = expires_minutes * 60

    def issue(self, subject: str, role: Role, expires: float | None = None) -> str:
        """Return a token for a user, by pk, or a service, by name.

        It expires at `expires`, a Unix time, or after `expires_seconds`.
        """
        now = time.time()
        claims = {
            "sub": subject,
            "role": role.value,
            "iss": ISSUER,
            "aud": AUDIENCE,
            "iat": int(now),
            "exp": int(now + self.expires_seconds if expires is None else expires),
        }
        return jwt.encode(claims, self._secrets[0], algorithm="HS256")

    def read(self, token: str) -> Caller:
        """Return the caller that the token identifies; raise InvalidToken with the reason."""
        try:
            claims = self._claims(token)
            if not claims["sub"]:
                raise ValueError
            return Caller(claims["sub"], Role(claims["role"]))
        except jwt.ImmatureSignatureError:
            log.warning("a token was issued in the future: the clocks of two machines differ")
            raise InvalidToken("The token is not valid yet. Try again later.") from None
        except jwt.ExpiredSignatureError:
            raise InvalidToken("The token has expired. Log in again.") from None
        except (jwt.InvalidTokenError, ValueError):
            raise InvalidToken("The token is not valid. Log in again.") from None

    def _claims(self, token: str) -> dict[str, str]:
        for secret in self._secrets:
            with suppress(jwt.InvalidSignatureError):
                return jwt.decode(
                    token,
                    secret,
                    algorithms=["HS256"],
                    audience=AUDIENCE,
                    issuer=ISSUER,
                    leeway=LEEWAY_SECONDS,
                    options={"require": REQUIRED_CLAIMS, "strict_aud": True},
                )
        raise jwt.InvalidSignatureError

"""Access tokens: JWTs signed with HS256 (RFC 7519), every claim required and checked."""

import warnings
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import jwt

from shopsphere.errors import InvalidToken
from shopsphere.models import Role

ISSUER = AUDIENCE = "shopsphere"
LEEWAY_SECONDS = 30
"""How far the clocks of two machines may be apart."""

# PyJWT 2.15 warns at every use of a secret under 32 bytes; the settings say so once, at start.
warnings.filterwarnings("ignore", category=jwt.InsecureKeyLengthWarning)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a token speaks for: the pk of a user, or the name of a service."""

    user_id: str
    role: Role


class Tokens:
    """Issues and reads access tokens; all services share the secret."""

    def __init__(self, secret: str, expires_minutes: int) -> None:
        self._secret = secret
        self.expires_seconds = expires_minutes * 60

    def issue(self, user_id: str, role: Role) -> str:
        """Return a token that is good from now on until it expires."""
        issued = datetime.now(UTC)
        claims = {
            "sub": user_id,
            "role": role.value,
            "iss": ISSUER,
            "aud": AUDIENCE,
            "iat": issued,
            "exp": issued + timedelta(seconds=self.expires_seconds),
        }
        return jwt.encode(claims, self._secret, algorithm="HS256")

    def read(self, token: str) -> Caller:
        """Return whom the token speaks for; raise InvalidToken, saying what is wrong with it."""
        try:
            claims = jwt.decode(
                token,
                self._secret,
                algorithms=["HS256"],
                audience=AUDIENCE,
                issuer=ISSUER,
                leeway=LEEWAY_SECONDS,
                options={"require": ["sub", "role", "iss", "aud", "iat", "exp"]},
            )
            return Caller(claims["sub"], Role(claims["role"]))
        except jwt.ExpiredSignatureError:
            raise InvalidToken("The token has expired. Log in again.") from None
        except (jwt.InvalidTokenError, ValueError):
            raise InvalidToken("The token is not valid. Log in again.") from None

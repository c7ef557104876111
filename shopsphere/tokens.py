"""Access tokens: JWTs signed with HS256 (RFC 7519), every claim required and checked."""

import time
import warnings
from dataclasses import dataclass

import jwt

from shopsphere.domain.errors import InvalidToken
from shopsphere.domain.values import Role

ISSUER = AUDIENCE = "shopsphere"
REQUIRED_CLAIMS = ["sub", "role", "iss", "aud", "iat", "exp"]
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
    """Issues and reads access tokens; all services share the secret.

    A token is good until it expires, with the role that its user had when it was issued: nothing
    revokes it, neither a new password nor a new role. Another JWT_SECRET ends all tokens at once.
    """

    def __init__(self, secret: str, expires_minutes: int) -> None:
        self._secret = secret
        self.expires_seconds = expires_minutes * 60

    def issue(self, subject: str, role: Role, expires: float | None = None) -> str:
        """Return a token for a user, by pk, or a service, by name.

        It is good until so many seconds after 1970, or for `expires_seconds`.
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
                options={"require": REQUIRED_CLAIMS, "strict_aud": True},
            )
            _be_strict(claims)
            return Caller(claims["sub"], Role(claims["role"]))
        except jwt.ExpiredSignatureError:
            raise InvalidToken("The token has expired. Log in again.") from None
        except (jwt.InvalidTokenError, ValueError):
            raise InvalidToken("The token is not valid. Log in again.") from None


def _be_strict(claims: dict[str, object]) -> None:
    """Raise ValueError where PyJWT 2.15 is not: for an empty subject, and "1" or true as a date."""
    if claims["sub"] == "":
        raise ValueError("the subject is empty")
    if not {type(claims["iat"]), type(claims["exp"])} <= {int, float}:
        raise ValueError("a date is no number")

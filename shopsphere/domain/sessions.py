"""The rules of sessions, and of the passwords that start and end them.

A refresh token is used once and replaced by one with the next number (RFC 9700, section 4.14.2).
"""

from typing import NamedTuple

from shopsphere.domain.errors import InvalidRefreshToken, RefreshTokenReused
from shopsphere.domain.records import CLOCK_SECONDS, Sessions, User
from shopsphere.domain.values import Role

GRACE_SECONDS = 60
"""How long after a rotation the used token still works: two tabs, or a response that was lost."""


class Refreshed(NamedTuple):
    """The number of the newest refresh token of a session, and the role of its user."""

    number: int
    role: Role


def start(
    now: float, user: User, sessions: Sessions, known_hash: str, new_hash: str, role: Role,
    session_id: str, ends_others: bool,
) -> bool:  # fmt: skip
    """Start a session and set the password hash and the role, unless the hash is no longer the
    known one; return whether the session was started. A change of role must also change the hash.

    `ends_others`: all other sessions end, as after a new password.
    """
    if session_id in sessions.all():
        return True
    if user.password_hash != known_hash:
        return False
    user.password_hash, user.role = new_hash, role
    sessions.sessions_json = "" if ends_others else sessions.sessions_json
    sessions.put(session_id, 1, now)
    return True


def refresh(
    now: float, user: User, sessions: Sessions, session_id: str, number: int, seconds: int
) -> Refreshed | InvalidRefreshToken:
    """Rotate the refresh token with this number; a token used before ends the session.

    A session unused for `seconds` is over. A number above the newest was lost in a failover.
    """
    newest, given = sessions.all().get(session_id, (0, 0.0))
    if not newest or abs(now - given) >= seconds:
        sessions.remove(session_id)
        return InvalidRefreshToken()
    # A first token replaced nothing; a rotation in the future is not recent.
    was_rotated = newest > 1 and -2 * CLOCK_SECONDS <= now - given < GRACE_SECONDS
    if number > newest or (number == newest and not was_rotated):
        newest = number + 1
        sessions.put(session_id, newest, now)
    elif not was_rotated or number < newest - 1:
        sessions.remove(session_id)
        return RefreshTokenReused()
    return Refreshed(newest, user.role)


def end(_: float, sessions: Sessions, session_id: str) -> None:
    """End a session, if it has not ended."""
    sessions.remove(session_id)


def delete(_: float, user: User, sessions: Sessions, known_hash: str) -> bool:
    """Remove a user and all sessions, unless the password hash is no longer the known one; return
    whether they are gone."""
    if user.password_hash not in (known_hash, ""):
        return False
    user.email, user.password_hash, user.role, sessions.sessions_json = "", "", Role.USER, ""
    return True

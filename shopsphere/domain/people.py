"""The rules of registration, email addresses and failed logins."""

import unicodedata

from email_validator import EmailNotValidError, validate_email

from shopsphere.domain.errors import EmailTaken, ShopError, TooManyLogins
from shopsphere.domain.records import Address, FailedLogins, User
from shopsphere.domain.values import Role

MIN_PASSWORD_LENGTH, MAX_PASSWORD_LENGTH, MAX_PASSWORD_INPUT = 8, 128, 512
"""Of a new password in NFC, and of one as it was typed."""


def checked_email(text: str) -> str:
    """Return an email address in lower case; raise ValueError if it is not valid."""
    try:
        checked = validate_email(text.strip(), check_deliverability=False, test_environment=True)
    except EmailNotValidError:
        raise ValueError("must be an email address, such as user@example.com") from None
    return unicodedata.normalize("NFC", checked.normalized.lower())


def register(_: float, record: User, email: str, password_hash: str, role: Role) -> None:
    """Create a user. The address is claimed afterwards."""
    record.email, record.password_hash, record.role = email, password_hash, role


def claim(_: float, address: Address, user_pk: str, gone_pk: str = "") -> ShopError | None:
    """Give an address to a user, unless another has it; `gone_pk` is a user known to be gone."""
    if address.user_pk not in ("", user_pk, gone_pk):
        return EmailTaken()
    address.user_pk = user_pk
    return None


def give_up(_: float, address: Address, user_pk: str) -> None:
    """Free an address, unless it belongs to another user by now."""
    if address.user_pk == user_pk:
        address.user_pk = ""


def require_few(now: float, failures: FailedLogins, most: int) -> ShopError | None:
    """Refuse attempts after `most` failures, until their window ends."""
    if failures.count < most or failures.is_over(now):
        return None
    return TooManyLogins(failures.ends - now)


def count_failure(now: float, failures: FailedLogins, seconds: int) -> None:
    """Count a failure, in a new window if the last one ended; twice if a response is lost."""
    if failures.is_over(now):
        failures.count, failures.seconds, failures.ends = 0, seconds, now + seconds
    failures.count += 1


def clear_failures(_: float, failures: FailedLogins) -> None:
    """Reset the count."""
    failures.count, failures.seconds, failures.ends = 0, 0, 0

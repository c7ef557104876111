"""The administrator whom the settings name, made at the start of the user service."""

import contextlib
import logging

from pydantic import BaseModel, ValidationError

from shopsphere.accounts.users import Users
from shopsphere.domain.errors import CannotStart, EmailTaken, StoreUnavailable
from shopsphere.domain.values import Role
from shopsphere.models import Email, Password
from shopsphere.passwords import Passwords
from shopsphere.settings import Settings, complaint

log = logging.getLogger("shopsphere.administrator")


class _Administrator(BaseModel):
    admin_email: Email
    admin_password: Password


async def ensure_administrator(settings: Settings, users: Users, passwords: Passwords) -> None:
    """Return when ADMIN_EMAIL is an administrator's, who has ADMIN_PASSWORD; or is not set.

    Several workers may do so at once. Whoever registered the address before cannot log in any more;
    a token given to them before is one of a user, and ends by itself. No account is ever demoted:
    who was named before stays an administrator. Raise CannotStart where it cannot be done.
    """
    if not settings.admin_email:
        if settings.auth_required:
            log.warning(
                "ADMIN_EMAIL is empty: if there never was an administrator, nobody can add products"
            )
        return
    email, password = settings.admin_email, settings.admin_password.get_secret_value()
    try:
        wanted = _Administrator(admin_email=email, admin_password=password)
        while not await _is_there(wanted, users, passwords):
            pass
    except ValidationError as error:
        raise CannotStart(complaint(error)) from None
    except StoreUnavailable:
        raise CannotStart(
            "The administrator of ADMIN_EMAIL cannot be made, as the storage cannot serve now. "
            "Start again when it can."
        ) from None


async def _is_there(wanted: _Administrator, users: Users, passwords: Passwords) -> bool:
    """Tell whether it is so; if not, take a step towards it, in which others may be faster."""
    password = wanted.admin_password
    user = await users.find(wanted.admin_email)
    if user is None:
        password_hash = await passwords.hash(password)
        with contextlib.suppress(EmailTaken):
            await users.register(wanted.admin_email, password_hash, Role.ADMIN)
        return False
    if user.role is Role.ADMIN and await passwords.verify(password, user.password_hash):
        return True
    await users.set_password(user, await passwords.hash(password), Role.ADMIN)
    return False

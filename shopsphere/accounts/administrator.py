"""The administrator whom the settings name, made at the start of the user service."""

import contextlib
import logging

from shopsphere.accounts.users import Users
from shopsphere.domain.errors import EmailTaken, StoreUnavailable
from shopsphere.domain.values import Role
from shopsphere.settings import CannotStart, Settings

log = logging.getLogger("shopsphere.accounts.administrator")


async def ensure_administrator(settings: Settings, users: Users) -> None:
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
    try:
        while not await _is_there(settings, users):
            pass
    except StoreUnavailable:
        raise CannotStart(
            "The administrator of ADMIN_EMAIL cannot be made, as the storage cannot serve now. "
            "Start again when it can."
        ) from None


async def _is_there(settings: Settings, users: Users) -> bool:
    """Tell whether it is so; if not, take a step towards it, in which others may be faster."""
    email, password = settings.admin_email, settings.admin_password.get_secret_value()
    user = await users.find(email)
    if user is None:
        with contextlib.suppress(EmailTaken):
            await users.register(email, password, Role.ADMIN)
        return False
    if user.role is Role.ADMIN and await users.has_password(user, password):
        return True
    await users.set_password(user, password, Role.ADMIN)
    return False

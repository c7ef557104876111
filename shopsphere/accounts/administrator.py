"""The administrator named in the settings, created when the user service starts."""

import contextlib
import logging

from shopsphere.accounts.users import Users
from shopsphere.domain.errors import EmailTaken
from shopsphere.domain.values import Role
from shopsphere.settings import Settings

log = logging.getLogger("shopsphere.accounts.administrator")


async def ensure_administrator(settings: Settings, users: Users) -> None:
    """Ensure that ADMIN_EMAIL, if set, is an administrator's account with ADMIN_PASSWORD.

    Several workers may do this at once. An existing account with this address gets the new role and
    password; its tokens keep the old role until they expire. No account is ever demoted: a
    previously named administrator remains one.
    """
    if not settings.admin_email:
        if settings.auth_required:
            log.warning("ADMIN_EMAIL is empty: without an administrator, nobody can add products")
        return
    email, password = settings.admin_email, settings.admin_password.get_secret_value()
    while True:  # another worker may be a step ahead
        user = await users.find(email)
        if user is None:
            with contextlib.suppress(EmailTaken):
                await users.register(email, password, Role.ADMIN)
        elif user.role is Role.ADMIN and await users.has_password(user, password):
            return
        else:
            await users.make_administrator(email, password)

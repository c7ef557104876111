"""Who calls in the tests: each with a token that the services take, or with none."""

from functools import partial

from starlette.testclient import TestClient

from shopsphere.accounts.passwords import Passwords
from shopsphere.accounts.users import Users
from shopsphere.domain import people
from shopsphere.domain.pks import new_pk
from shopsphere.domain.records import User
from shopsphere.domain.values import Role
from shopsphere.records import Records
from shopsphere.tokens import Tokens
from tests.apps import JWT_SECRET, bearer, settings_of

SECRET = JWT_SECRET
METRICS_TOKEN = "a-token-for-prometheus"
CLOSED = {"AUTH_REQUIRED": "true", "JWT_SECRET": SECRET, "METRICS_TOKEN": METRICS_TOKEN}
OPEN = {"AUTH_REQUIRED": "false", "JWT_SECRET": SECRET}

TOKENS = Tokens([SECRET], 60)
USERS = [
    User(pk=new_pk(), email=f"{who}@example.com", password_hash="no hash", role=role)
    for who, role in (("customer", Role.USER), ("another", Role.USER), ("boss", Role.ADMIN))
]
CUSTOMER, ANOTHER, ADMINISTRATOR = USERS

Headers = dict[str, str]


def users_in(records: Records, rounds: int = 4) -> Users:
    """Return the users of a storage; hashing is fast."""
    return Users(records, settings_of({}), TOKENS, Passwords(rounds))


PEOPLE: dict[str, Headers] = {
    "nobody": {},
    "customer": bearer(TOKENS.issue(CUSTOMER.pk, CUSTOMER.role)),
    "another customer": bearer(TOKENS.issue(ANOTHER.pk, ANOTHER.role)),
    "administrator": bearer(TOKENS.issue(ADMINISTRATOR.pk, ADMINISTRATOR.role)),
    "order service": bearer(TOKENS.issue("order-service", Role.SERVICE)),  # good for the whole run
}


def enlist(client: TestClient, *users: User) -> None:
    """Keep users whose pks are known beforehand, at the user service of this client."""
    records: Records = client.app.state.service.opened.records  # type: ignore[attr-defined]  # a FastAPI
    assert client.portal
    for user in users:
        register = partial(
            people.register, email=user.email, password_hash=user.password_hash, role=user.role
        )
        client.portal.call(records.change, register, User(pk=user.pk))

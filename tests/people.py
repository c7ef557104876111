"""Who calls in the tests: each with a token that the services take, or with none."""

from shopsphere.domain.pks import new_pk
from shopsphere.domain.values import Role, User
from shopsphere.settings import Settings
from shopsphere.tokens import Tokens

SECRET = "a secret of the tests, of more than 32 bytes"
METRICS_TOKEN = "a-token-for-prometheus"
CLOSED = {"AUTH_REQUIRED": "true", "JWT_SECRET": SECRET, "METRICS_TOKEN": METRICS_TOKEN}
OPEN = {"AUTH_REQUIRED": "false", "JWT_SECRET": SECRET}

TOKENS = Tokens(SECRET, 60)
USERS = [
    User(new_pk(), f"{who}@example.com", "no hash: nobody logs in as they", role)
    for who, role in (("customer", Role.USER), ("another", Role.USER), ("boss", Role.ADMIN))
]
CUSTOMER, ANOTHER, ADMINISTRATOR = USERS

Headers = dict[str, str]


def bearer(token: str) -> Headers:
    """Return the header that carries this token."""
    return {"Authorization": f"Bearer {token}"}


PEOPLE: dict[str, Headers] = {
    "nobody": {},
    "customer": bearer(TOKENS.issue(CUSTOMER.pk, CUSTOMER.role)),
    "another customer": bearer(TOKENS.issue(ANOTHER.pk, ANOTHER.role)),
    "administrator": bearer(TOKENS.issue(ADMINISTRATOR.pk, ADMINISTRATOR.role)),
    "order service": bearer(TOKENS.issue("order-service", Role.SERVICE)),  # good for the whole run
}


def settings(environment: dict[str, str]) -> Settings:
    """Return the settings that these variables make, whatever the environment says."""
    lower = {name.lower(): value for name, value in environment.items()}
    return Settings.model_validate({"bcrypt_rounds": 4, **lower})

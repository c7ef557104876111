"""Tokens: what an attacker would send, each refused, and what a customer sends, each taken."""

import base64
import json
import time
from collections.abc import Iterator

import jwt
import pytest
from starlette.testclient import TestClient

import user_service
from shopsphere.domain.errors import InvalidToken
from tests.apps import bearer, settings_of
from tests.people import ADMINISTRATOR, CLOSED, CUSTOMER, SECRET, TOKENS, enlist

ATTACKER = "a secret of the attacker, of more than 32 bytes"
GOOD = {"sub": CUSTOMER.pk, "role": "user", "iss": "shopsphere", "aud": "shopsphere"}


def now() -> int:
    return int(time.time())


def good(**others: object) -> dict[str, object]:
    """Return what a token of CUSTOMER says that is issued now, with other claims besides."""
    return {**GOOD, "iat": now(), "exp": now() + 3600, **others}


def forge(
    claims: object = None, secret: str = SECRET, algorithm: str = "HS256", **header: object
) -> str:
    """Return a token that says this, signed like this, with more in its header."""
    said = json.dumps(good() if claims is None else claims).encode()
    return jwt.PyJWS().encode(said, secret, algorithm, header)


def is_taken(token: str) -> bool:
    try:
        return bool(TOKENS.read(token))
    except InvalidToken:
        return False


def attacks() -> dict[str, str]:
    """Return every token that must be refused, by what is wrong with it."""
    admin = good(sub=ADMINISTRATOR.pk, role="admin")
    header, payload, signature = forge().split(".")
    jwk = {"kty": "oct", "k": base64.urlsafe_b64encode(ATTACKER.encode()).decode()}
    nested = base64.urlsafe_b64encode(b"[" * 5000).decode()
    return {
        "no algorithm": forge(secret="", algorithm="none"),
        "HS384 with the right secret": forge(algorithm="HS384"),
        "another secret": forge(secret=ATTACKER),
        "no signature": f"{header}.{payload}",
        "a signature cut short": forge()[:-6],
        "an elevated role, signed as before": f"{forge(admin).rpartition('.')[0]}.{signature}",
        "a kid of the attacker": forge(admin, ATTACKER, kid="attacker"),
        "a jwk of the attacker": forge(admin, ATTACKER, jwk=jwk),
        "a critical extension": forge(crit=["shop"], shop="open"),
        "a payload that is a list": forge([good()]),
        "a header nested deeply": f"{nested}.{payload}.{signature}",
        "no token at all": "nothing",
        **{f"no {claim}": forge({c: good()[c] for c in good() if c != claim}) for claim in good()},
    }


def test_a_forged_token_is_refused() -> None:
    assert [attack for attack, token in attacks().items() if is_taken(token)] == []


def test_a_claim_that_is_of_the_wrong_type_or_says_something_wrong_is_refused() -> None:
    no_date = ["now", float("inf"), float("nan")]
    wrong: dict[str, list[object]] = {
        "sub": [5, ""],
        "role": [5, "", "root", "ADMIN", "admin "],
        "iss": [5, "", "another shop"],
        "aud": [5, "", "another shop", ["shopsphere", "another shop"]],
        "iat": [*no_date, now() + 40],
        "exp": [*no_date, now() - 40, 0, -1],
    }
    for claim, values in wrong.items():
        values += [None, [], {}, [good()[claim]]]
        assert [value for value in values if is_taken(forge(good(**{claim: value})))] == [], claim


@pytest.fixture(scope="module")
def users() -> Iterator[TestClient]:
    """A user service in a closed shop, where CUSTOMER is a user."""
    with TestClient(user_service.build(settings_of({"USE_REDIS": "false", **CLOSED}))) as client:
        enlist(client, CUSTOMER)
        yield client


def test_a_good_token_is_taken_with_the_scheme_in_any_case(users: TestClient) -> None:
    for scheme, claims in (
        ("Bearer", good()),
        ("bearer", good(exp=now() - 20)),  # over, but within the leeway
        ("BEARER", good(iat=now() + 20)),  # issued by a clock that is ahead
        ("Bearer ", good(iat=now() - 0.5, exp=now() + 60.5)),
        ("Bearer", good(name="a claim nobody knows")),
    ):
        header = f"{scheme} {forge(claims, kid='1')}"
        answer = users.get("/me", headers={"Authorization": header})
        assert (answer.status_code, answer.json().get("pk")) == (200, CUSTOMER.pk), claims


def test_a_header_that_carries_no_good_bearer_token_is_refused(users: TestClient) -> None:
    for header in ("Basic {}", "{}", "Bearer", "Bearer{}", "Bearer,{}", "", "Bearer töken"):
        sent = header.format(forge()).encode("latin-1")
        answer = users.get("/me", headers={b"Authorization": sent})
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer"), header
        assert answer.json()["code"] == "invalid_token"
    assert users.get("/me", headers=[*bearer(forge()).items()] * 2).status_code == 401

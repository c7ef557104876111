"""Tokens: what an attacker would send, each refused, and what a customer sends, each taken."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

import user_service
from tests.apps import bearer, settings_of
from tests.people import ADMINISTRATOR, CLOSED, CUSTOMER, PEOPLE, SECRET, enlist

Claims = dict[str, object]
ATTACKER = "a secret of the attacker, of more than 32 bytes"
HASHES = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}


def now() -> int:
    return int(time.time())


def good(**others: object) -> Claims:
    """Return what a token of CUSTOMER says that is issued now, with other claims besides."""
    return {
        "sub": CUSTOMER.pk,
        "role": "user",
        "iss": "shopsphere",
        "aud": "shopsphere",
        "iat": now(),
        "exp": now() + 3600,
        **others,
    }


def encode(part: bytes) -> str:
    """Return the part as a token spells it."""
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


def forge(claims: object = None, secret: str = SECRET, **header: object) -> str:
    """Return a token made by hand: with this payload, this secret, these members of its header."""
    header = {"alg": "HS256", "typ": "JWT", **header}
    text = ".".join(encode(json.dumps(part).encode()) for part in (header, claims or good()))
    digest = HASHES.get(str(header["alg"]), hashlib.sha256)
    return f"{text}.{encode(hmac.new(secret.encode(), text.encode(), digest).digest())}"


def unsigned(token: str) -> str:
    return token.rpartition(".")[0] + "."


def with_payload_of(claims: Claims) -> str:
    """Return a good token in which somebody has replaced the payload."""
    header, _, signature = forge().split(".")
    return f"{header}.{forge(claims).split('.')[1]}.{signature}"


def wrong_claims() -> Iterator[tuple[str, object]]:
    """Yield each claim with values of the wrong type, or that say something wrong."""
    for claim in good():
        values: list[object] = [None, True, [], {}, [good()[claim]]]
        yield from ((claim, value) for value in values)
    for claim in ("sub", "role", "iss", "aud"):
        yield from ((claim, value) for value in (5, ""))
    for claim in ("iat", "exp"):
        yield from ((claim, value) for value in ("now", str(now()), float("inf"), float("nan")))
    yield from (("role", value) for value in ("root", "ADMIN", "admin "))
    yield from ((claim, "another shop") for claim in ("iss", "aud"))
    yield ("aud", ["shopsphere", "another shop"])
    yield from (("iat", now() + 40), ("nbf", now() + 40), ("nbf", "soon"), ("nbf", float("inf")))
    yield from (("exp", now() - 40), ("exp", 0), ("exp", -1))


def attacks() -> dict[str, str]:
    """Return every token that must be refused, by what is wrong with it."""
    admin = good(sub=ADMINISTRATOR.pk, role="admin")
    jwk = {"kty": "oct", "k": encode(ATTACKER.encode())}
    return {
        "no algorithm": unsigned(forge(alg="none")),
        "no algorithm, spelt otherwise": unsigned(forge(alg="nOnE")),
        "no algorithm, but a signature": forge(alg="none"),
        "HS384 with the right secret": forge(alg="HS384"),
        "HS512 with the right secret": forge(alg="HS512"),
        "RS256, signed with the secret": forge(alg="RS256"),
        "an algorithm that is a list": forge(alg=["HS256"]),
        "another secret": forge(secret=ATTACKER),
        "an empty secret": forge(secret=""),
        "no signature": forge().rpartition(".")[0],
        "an empty signature": unsigned(forge()),
        "a signature cut short": forge()[:-6],
        "an elevated role under the old signature": with_payload_of(admin),
        "a kid of the attacker": forge(admin, ATTACKER, kid="attacker"),
        "a kid that is an empty file": forge(admin, "", kid="/dev/null"),
        "a kid that is no text": forge(kid=["x"]),
        "a jwk of the attacker": forge(admin, ATTACKER, jwk=jwk),
        "a critical extension": forge(crit=["shop"], shop="open"),
        "a payload that is a list": forge([good()]),
        "a payload that is a text": forge("admin"),
        "a payload nested deeply": f"{forge().split('.')[0]}.{encode(b'[' * 5000)}.x",
        "a header nested deeply": f"{encode(b'[' * 5000)}.{forge().partition('.')[2]}",
        "no token at all": "nothing",
        "three dots": "...",
        "letters beyond ASCII": "töken",
        "two tokens": f"{forge()} {forge()}",
        **{
            f"no {claim}": forge({name: good()[name] for name in good() if name != claim})
            for claim in good()
        },
        **{
            f"wrong claim {number}: {claim}": forge(good(**{claim: value}))
            for number, (claim, value) in enumerate(wrong_claims())
        },
    }


@pytest.fixture(scope="module")
def users() -> Iterator[TestClient]:
    """A user service in a closed shop, where CUSTOMER is a user."""
    with TestClient(user_service.build(settings_of({"USE_REDIS": "false", **CLOSED}))) as client:
        enlist(client, CUSTOMER)
        yield client


@pytest.mark.parametrize("attack", attacks())
def test_a_forged_token_is_refused(users: TestClient, attack: str) -> None:
    header = b"Bearer " + attacks()[attack].encode("latin-1")
    answer = users.get("/me", headers={b"Authorization": header})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.json()["code"] == "invalid_token"
    assert SECRET not in answer.text


def test_a_good_token_is_taken(users: TestClient) -> None:
    for claims in (
        good(),
        good(exp=now() - 20),  # over, but within the leeway
        good(iat=now() + 20),  # issued by a clock that is ahead
        good(iat=now() - 0.5, exp=now() + 60.5),
        good(nbf=now() - 5),
        good(name="a claim nobody knows"),
    ):
        answer = users.get("/me", headers=bearer(forge(claims, kid="1")))
        assert (answer.status_code, answer.json().get("pk")) == (200, CUSTOMER.pk), claims


@pytest.mark.parametrize(
    "header",
    ["Basic {}", "Token {}", "{}", "Bearer", "Bearer ", "Bearer{}", "Bearer,{}", "Bearer={}", ""],
)
def test_a_header_that_carries_no_bearer_token_is_refused(users: TestClient, header: str) -> None:
    answer = users.get("/me", headers={"Authorization": header.format(forge())})
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer "])
def test_the_scheme_is_taken_in_any_case(users: TestClient, scheme: str) -> None:
    answer = users.get("/me", headers={"Authorization": f"{scheme} {forge()}"})
    assert answer.status_code == 200


def test_the_token_of_a_user_who_is_gone_finds_nobody(users: TestClient) -> None:
    answer = users.get("/me", headers=bearer(forge(good(sub="gone"))))
    assert (answer.status_code, answer.json()["code"]) == (404, "user_not_found")


def test_two_headers_are_refused_even_if_both_are_good(users: TestClient) -> None:
    headers = [("Authorization", f"Bearer {forge()}"), ("Authorization", f"Bearer {forge()}")]
    assert users.get("/me", headers=headers).status_code == 401


def test_a_token_outside_the_header_is_no_token(users: TestClient) -> None:
    for name in ("token", "access_token", "authorization"):
        assert users.get("/me", params={name: forge()}).status_code == 401
        assert users.get("/me", headers={"Cookie": f"{name}={forge()}"}).status_code == 401


def test_a_person_with_the_token_of_a_service_is_refused(users: TestClient) -> None:
    for method in ("GET", "PATCH"):
        answer = users.request(method, "/me", headers=PEOPLE["order service"])
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")

"""Every setting: its default, and the one line that a wrong value gets."""

import os
import re
from pathlib import Path

import pytest

from shopsphere import settings
from shopsphere.settings import CannotStart, Settings
from tests.apps import running

SECRET = "hunter2-is-a-secret"


@pytest.fixture
def env_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The place of a file of settings that the environment names."""
    file = tmp_path / ".env"
    monkeypatch.setenv("SHOPSPHERE_ENV_FILE", str(file))
    monkeypatch.setattr(settings, "ENV_FILE", file)
    return file


@pytest.mark.parametrize(
    ("variable", "wrong", "what_it_may_be"),
    [
        ("USE_REDIS", "maybe", "'true', 'false' or 'required'"),
        ("REDIS_HOST", f"user:{SECRET}@localhost", "name or an address"),
        ("REDIS_PORT", "six", "must be a whole number"),
        ("REDIS_PORT", "0", "greater than or equal to 1"),
        ("REDIS_PORT", "65536", "less than or equal to 65535"),
        ("REDIS_URL", f"http://:{SECRET}@localhost", "redis://"),
        ("REDIS_PREFIX", "{shop}", "letters, digits"),
        ("REDIS_PREFIX", "shop:", "letters, digits"),
        ("REDIS_PREFIX", "s" * 65, "1 to 64"),
        ("PRODUCT_SERVICE_URL", "http://localhost:eight", "http://host:port"),
        ("PRODUCT_SERVICE_URL", "http://localhost:65536", "out of range"),
        ("PRODUCT_SERVICE_URL", "http://.shop:8000", "http://host:port"),
        ("USER_SERVICE_URL", "http://[::1:8001", "http://host:port"),
        ("ORDER_SERVICE_URL", f"http://me:{SECRET}@127.0.0.1:8002", "without credentials"),
        ("PRODUCT_SERVICE_TIMEOUT", "nan", "finite"),
        ("SETTLE_AFTER", "0", "greater than 0"),
        ("ORDER_TIMEOUT", "121", "less than or equal to 120"),
        ("AUTH_REQUIRED", "maybe", "must be true or false"),
        ("CORS_ORIGINS", "https://shop.example, nonsense", "comma-separated"),
        ("BCRYPT_ROUNDS", "3", "greater than or equal to 4"),
        ("BCRYPT_ROUNDS", "17", "less than or equal to 16"),
        ("LOG_LEVEL", "LOUD", "'INFO'"),
        ("LOG_FORMAT", "xml", "'text' or 'json'"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line_that_says_what_it_may_be(
    monkeypatch: pytest.MonkeyPatch, variable: str, wrong: str, what_it_may_be: str
) -> None:
    monkeypatch.setenv(variable, wrong)
    with pytest.raises(CannotStart) as refusal:
        Settings.load()
    assert str(refusal.value).startswith(f"{variable} ")
    assert what_it_may_be in str(refusal.value)
    assert SECRET not in str(refusal.value)


@pytest.mark.parametrize(
    ("variable", "given", "meant"),
    [
        ("USE_REDIS", "REQUIRED", "required"),
        ("REDIS_HOST", "bücher.example", "bücher.example"),
        ("REDIS_PREFIX", "shop:test-1.a_b", "shop:test-1.a_b"),
        ("PRODUCT_SERVICE_URL", "https://shop.example/products/", "https://shop.example/products"),
        ("PRODUCT_SERVICE_URL", "http://[::1]:8000", "http://[::1]:8000"),
        ("ORDER_TIMEOUT", "0.5", 0.5),
        ("LOG_LEVEL", "debug", "DEBUG"),
        ("REDIS_PORT", "", 6379),
    ],
)
def test_a_right_value_is_taken(
    monkeypatch: pytest.MonkeyPatch, variable: str, given: str, meant: object
) -> None:
    monkeypatch.setenv(variable, given)
    assert getattr(Settings.load(), variable.lower()) == meant


def test_the_environment_wins_over_a_file(monkeypatch: pytest.MonkeyPatch, env_file: Path) -> None:
    env_file.write_text("REDIS_PREFIX=from-file\nREDIS_HOST=from-file\n", encoding="utf-8")
    monkeypatch.setenv("REDIS_HOST", "from-environment")
    loaded = Settings.load()
    assert (loaded.redis_prefix, loaded.redis_host) == ("from-file", "from-environment")


def test_a_file_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch, env_file: Path) -> None:
    with pytest.raises(CannotStart, match=r"SHOPSPHERE_ENV_FILE: .* is not a file"):
        Settings.load()
    env_file.write_text("USE_REDIS=false\n", encoding="utf-16")  # as `>` of PowerShell 5.1 does
    with pytest.raises(CannotStart, match=r"^\.env .* UTF-8"):
        Settings.load()
    env_file.unlink()
    env_file.mkdir()
    with pytest.raises(CannotStart, match="is not a file"):
        Settings.load()
    env_file.rmdir()
    monkeypatch.setenv("SHOPSPHERE_ENV_FILE", "")
    assert Settings.load().redis_port == 6379


@pytest.mark.skipif(os.name == "nt", reason="takes away a right as POSIX does")
def test_a_file_of_somebody_else_is_refused(env_file: Path) -> None:
    env_file.touch(0)
    me = os.geteuid()
    try:
        if me == 0:
            os.seteuid(65534)
        with pytest.raises(CannotStart, match=r"^\.env must not be read by this user"):
            Settings.load()
    finally:
        os.seteuid(me)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        (f"rediss://shop:{SECRET}@[::1]:6380/0?ssl_cert_reqs=none", "rediss://[::1]:6380/0"),
        (f"redis://shop:{SECRET}@more@cache.example:6380", "redis://cache.example:6380"),
        (f"redis://shop:0/{SECRET}@cache.example", "redis://cache.example"),
        ("redis+cluster://a:1,[::1]:2", "redis+cluster://a:1,[::1]:2"),
        (f"unix:///run/redis.sock?db=1&password=a@{SECRET}", "unix:///run/redis.sock"),
    ],
)
def test_passwords_are_not_shown(monkeypatch: pytest.MonkeyPatch, url: str, address: str) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    assert Settings.load().redis_address == address


def test_secrets_are_not_shown_and_sent_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("JWT_SECRET", "ADMIN_PASSWORD", "METRICS_TOKEN", "REDIS_PASSWORD"):
        monkeypatch.setenv(variable, SECRET)
    monkeypatch.setenv("ADMIN_EMAIL", "admin@example.com")
    monkeypatch.setenv("REDIS_PASSWORD", "p@ss:w/ord?#%")
    monkeypatch.setenv("REDIS_HOST", "::1")
    shown = Settings.load()
    for text in (SECRET, "ss:w"):
        assert text not in f"{shown!r} {shown} {shown.model_dump()} {shown.model_dump_json()}"
    assert shown.jwt_secret.get_secret_value() == SECRET
    assert shown.redis_full_url == "redis://:p%40ss%3Aw%2Ford%3F%23%25@[::1]:6379"


def test_a_start_asks_whether_a_misspelt_setting_was_meant(
    monkeypatch: pytest.MonkeyPatch, env_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    env_file.write_text("USE_REDDIS=false\nLOG_LEVEL=INFO\nCOMPOSE_PROFILES=all\n")
    for variable in ("AUTH_REQUIERD", "redis_prot", "redis_host", "PRODUCT_SERVICE_PORT"):
        monkeypatch.setenv(variable, "x")
    with running("user", {"USE_REDIS": "false"}):
        lines = capsys.readouterr().err.splitlines()
    named = [" for ".join(re.findall(r"\w+_\w+", line)) for line in lines]
    assert [names for names in named if " for " in names] == [
        "AUTH_REQUIERD for AUTH_REQUIRED", "USE_REDDIS for USE_REDIS", "redis_prot for REDIS_PORT"
    ]  # fmt: skip


def test_all_wrong_values_are_named_in_one_line_which_shows_none_of_them(env_file: Path) -> None:
    env_file.write_text(
        f"REDIS_PORT=six\nREDIS_URL=http://:{SECRET}@localhost\nJWT_SECRET={SECRET}\n"
        f"JWT_EXPIRES_MINUTES={SECRET}\nAUTH_REQUIRED=true\n"
    )
    with pytest.raises(CannotStart) as refusal:
        Settings.load()
    named = re.findall("([A-Z_]+) must", str(refusal.value))
    assert named == ["REDIS_PORT", "REDIS_URL", "JWT_SECRET", "JWT_EXPIRES_MINUTES"]
    assert SECRET not in str(refusal.value)
    assert "\n" not in str(refusal.value)

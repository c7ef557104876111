"""Every setting: its default, and the one line that a wrong value gets."""

import os
from pathlib import Path

import pytest

from shopsphere import settings
from shopsphere.domain.errors import CannotStart
from shopsphere.settings import Settings
from tests.servers import ROOT, Service

SECRET = "hunter2-is-a-secret"


@pytest.fixture(autouse=True)
def _nothing_but_what_the_test_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Settings.model_config, "env_file", None)
    for variable in Settings.model_fields:
        monkeypatch.delenv(variable.upper(), raising=False)


@pytest.mark.parametrize(
    ("variable", "wrong", "what_it_may_be"),
    [
        ("USE_REDIS", "maybe", "'true', 'false' or 'required'"),
        ("USE_REDIS", "1", "'true', 'false' or 'required'"),
        ("REDIS_HOST", "redis://localhost", "name or an address"),
        ("REDIS_HOST", "local host", "name or an address"),
        ("REDIS_HOST", f"user:{SECRET}@localhost", "name or an address"),
        ("REDIS_PORT", "six", "must be a whole number"),
        ("REDIS_PORT", "0", "greater than or equal to 1"),
        ("REDIS_PORT", "65536", "less than or equal to 65535"),
        ("REDIS_URL", f"http://:{SECRET}@localhost", "redis://"),
        ("REDIS_URL", f":{SECRET}@localhost:6379", "redis://"),
        ("REDIS_PREFIX", "a shop", "letters, digits"),
        ("REDIS_PREFIX", "shop:", "letters, digits"),
        ("REDIS_PREFIX", "{shop}", "letters, digits"),
        ("REDIS_PREFIX", "s" * 65, "1 to 64"),
        ("PRODUCT_SERVICE_URL", "127.0.0.1:8000", "http://host:port"),
        ("PRODUCT_SERVICE_URL", "http://[::1:8000", "http://host:port"),
        ("PRODUCT_SERVICE_URL", "http://localhost:eight", "http://host:port"),
        ("USER_SERVICE_URL", "ftp://127.0.0.1:8001", "http://host:port"),
        ("ORDER_SERVICE_URL", f"http://me:{SECRET}@127.0.0.1:8002", "without credentials"),
        ("PRODUCT_SERVICE_TIMEOUT", "0", "greater than 0"),
        ("PRODUCT_SERVICE_TIMEOUT", "soon", "number"),
        ("PRODUCT_SERVICE_TIMEOUT", "nan", "finite"),
        ("ORDER_TIMEOUT", "-1", "greater than 0"),
        ("ORDER_TIMEOUT", "inf", "finite"),
        ("ORDER_TIMEOUT", "121", "less than or equal to 120"),
        ("AUTH_REQUIRED", "maybe", "must be true or false"),
        ("JWT_EXPIRES_MINUTES", "0", "greater than or equal to 1"),
        ("JWT_EXPIRES_MINUTES", "1.5", "must be a whole number"),
        ("CORS_ORIGINS", "shop.example", "https://shop.example"),
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

    line = str(refusal.value)
    assert line.startswith(f"{variable} ")
    assert what_it_may_be in line
    assert "\n" not in line
    assert SECRET not in line


@pytest.mark.parametrize(
    ("variable", "given", "meant"),
    [
        ("USE_REDIS", "REQUIRED", "required"),
        ("REDIS_HOST", "redis-1.shop_net.example", "redis-1.shop_net.example"),
        ("REDIS_HOST", "::1", "::1"),
        ("REDIS_HOST", "bücher.example", "bücher.example"),
        ("REDIS_PREFIX", "shop:test-1.a_b", "shop:test-1.a_b"),
        ("PRODUCT_SERVICE_URL", "https://shop.example/products/", "https://shop.example/products"),
        ("PRODUCT_SERVICE_URL", "http://[::1]:8000", "http://[::1]:8000"),
        ("ORDER_TIMEOUT", "0.5", 0.5),
        ("LOG_LEVEL", "debug", "DEBUG"),
        ("LOG_FORMAT", "JSON", "json"),
        ("REDIS_PORT", "", 6379),
    ],
)
def test_a_right_value_is_taken(
    monkeypatch: pytest.MonkeyPatch, variable: str, given: str, meant: object
) -> None:
    monkeypatch.setenv(variable, given)

    assert getattr(Settings.load(), variable.lower()) == meant


def test_each_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_PORT", "six")
    monkeypatch.setenv("LOG_FORMAT", "xml")

    with pytest.raises(CannotStart, match=r"REDIS_PORT .* LOG_FORMAT "):
        Settings.load()


def test_the_example_lists_every_setting_with_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    listed = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert {name.lower() for name in listed} == set(Settings.model_fields)

    for name, value in listed.items():
        monkeypatch.setenv(name, value)
    from_example = Settings.load()
    for name in listed:
        monkeypatch.delenv(name)

    assert from_example == Settings.load()


def test_a_setting_is_read_from_a_file_and_the_environment_wins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / ".env"
    file.write_text("REDIS_PREFIX=from-file\nREDIS_HOST=from-file\nUNKNOWN=1\n", encoding="utf-8")
    monkeypatch.setattr(settings, "ENV_FILE", file)
    monkeypatch.setenv("REDIS_HOST", "from-environment")

    loaded = Settings.load()

    assert (loaded.redis_prefix, loaded.redis_host) == ("from-file", "from-environment")


def test_a_folder_in_the_place_of_the_file_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(settings, "ENV_FILE", tmp_path)
    with pytest.raises(CannotStart, match="is a folder, where a file is expected"):
        Settings.load()


@pytest.mark.skipif(os.name == "nt", reason="takes away a right as POSIX does")
def test_a_file_of_somebody_else_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / ".env"
    file.touch(0)
    monkeypatch.setattr(settings, "ENV_FILE", file)
    me = os.geteuid()
    try:
        if me == 0:
            os.seteuid(65534)
        with pytest.raises(CannotStart, match=r"^\.env must not be read by this user"):
            Settings.load()
    finally:
        os.seteuid(me)


def test_a_file_that_is_not_utf_8_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / ".env"
    file.write_text("USE_REDIS=false\n", encoding="utf-16")  # as `>` of PowerShell 5.1 writes it
    monkeypatch.setattr(settings, "ENV_FILE", file)

    with pytest.raises(CannotStart, match=r"^\.env .* UTF-8"):
        Settings.load()


def test_another_file_can_be_named(tmp_path: Path) -> None:
    file = tmp_path / "staging"
    file.write_text("USE_REDIS=false\nAUTH_REQUIRED=true\n")
    service = Service("user", tmp_path / "log", SHOPSPHERE_ENV_FILE=str(file)).start(wait=False)
    assert service.process.wait(20) != 0
    service.stop()
    assert "JWT_SECRET must be" in service.log.read_text()


def test_an_empty_name_of_a_file_counts_as_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SHOPSPHERE_ENV_FILE", "")
    monkeypatch.setattr(settings, "ENV_FILE", tmp_path / "none")
    assert Settings.load().redis_port == 6379


def test_a_named_file_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    service = Service("user", tmp_path / "log", SHOPSPHERE_ENV_FILE="none").start(wait=False)
    assert service.process.wait(20) != 0
    service.stop()
    said = service.log.read_text()
    assert "SHOPSPHERE_ENV_FILE names a file that is not there." in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://cache.example:6380/2", "redis://cache.example:6380/2"),
        (f"redis://:{SECRET}@cache.example", "redis://cache.example"),
        (f"rediss://shop:{SECRET}@[::1]:6380/0?ssl_cert_reqs=none", "rediss://[::1]:6380/0"),
        (f"redis://shop:{SECRET}@more@cache.example:6380", "redis://cache.example:6380"),
        (f"redis://shop:0/{SECRET}@cache.example", "redis://cache.example"),
        ("redis+cluster://a:1,[::1]:2", "redis+cluster://a:1,[::1]:2"),
        ("redis://[::1", "redis://[::1"),
        (f"redis://cache.example?password={SECRET}", "redis://cache.example"),
        (f"unix:///run/redis.sock?db=1&password=a@{SECRET}", "unix:///run/redis.sock"),
        (f"unix://shop:{SECRET}@/run/redis.sock", "unix:///run/redis.sock"),
    ],
)
def test_the_address_of_redis_is_shown_without_its_password(
    monkeypatch: pytest.MonkeyPatch, url: str, address: str
) -> None:
    monkeypatch.setenv("REDIS_URL", url)

    assert Settings.load().redis_address == address


def test_settings_do_not_show_their_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JWT_SECRET", SECRET)
    monkeypatch.setenv("REDIS_PASSWORD", SECRET)
    monkeypatch.setenv("REDIS_URL", f"redis://:{SECRET}@localhost")

    shown = Settings.load()

    assert SECRET not in f"{shown!r} {shown} {shown.model_dump()} {shown.model_dump_json()}"
    assert shown.jwt_secret.get_secret_value() == SECRET


def test_a_password_of_any_characters_is_sent_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_PASSWORD", "p@ss:w/ord?#%")

    assert Settings.load().redis_full_url == "redis://:p%40ss%3Aw%2Ford%3F%23%25@localhost:6379"


def test_what_looks_like_a_setting_but_is_none_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / ".env"
    file.write_text("USE_REDDIS=false\nLOG_LEVEL=INFO\nCOMPOSE_PROFILES=all\n")
    monkeypatch.setattr(settings, "ENV_FILE", file)
    for variable in ("AUTH_REQUIERD", "redis_prot", "redis_host", "PRODUCT_SERVICE_PORT"):
        monkeypatch.setenv(variable, "x")

    assert dict(Settings.misspelt()) == {
        "AUTH_REQUIERD": "AUTH_REQUIRED",
        "USE_REDDIS": "USE_REDIS",
        "redis_prot": "REDIS_PORT",
    }


def test_a_start_asks_whether_a_misspelt_setting_was_meant(tmp_path: Path) -> None:
    service = Service("user", tmp_path / "log", USE_REDIS="false", CORS_ORIGIN="https://a.example")
    try:
        service.start()
        assert "CORS_ORIGIN is no setting. Is CORS_ORIGINS meant?" in service.log.read_text()
    finally:
        service.stop()


@pytest.mark.parametrize("name", ["product", "user", "order"])
def test_a_service_with_wrong_settings_does_not_start_and_says_so_in_one_line(
    tmp_path: Path, name: str
) -> None:
    service = Service(
        name,
        tmp_path / "log",
        REDIS_PORT="six",
        REDIS_URL=f"http://:{SECRET}@localhost",
        REDIS_PASSWORD=SECRET,
        JWT_SECRET=SECRET,
        JWT_EXPIRES_MINUTES=SECRET,
    ).start(wait=False)

    assert service.process.wait(20) != 0
    service.stop()
    said = service.log.read_text()
    [line] = [line for line in said.splitlines() if "REDIS_PORT" in line]
    assert "REDIS_URL must start with" in line
    assert "JWT_EXPIRES_MINUTES" in line
    assert "Traceback" not in said
    assert SECRET not in said

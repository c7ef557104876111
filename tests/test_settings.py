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
        ("REDIS_HOST", f"user:{SECRET}@localhost", "host name or address"),
        ("REDIS_PORT", "six", "must be a whole number"),
        ("REDIS_PORT", "0", "greater than or equal to 1"),
        ("REDIS_PORT", "65536", "less than or equal to 65535"),
        ("REDIS_PREFIX", "{shop}", "letters, digits"),
        ("REDIS_PREFIX", "shop:", "letters, digits"),
        ("REDIS_PREFIX", "s" * 65, "1 to 64"),
        ("PRODUCT_SERVICE_URL", "http://localhost:eight", "http://host:port"),
        ("PRODUCT_SERVICE_URL", "tcp://10.0.0.7:8000", "http://host:port"),
        ("PRODUCT_SERVICE_URL", "http://localhost:65536", "out of range"),
        ("PRODUCT_SERVICE_URL", "http://.shop:8000", "http://host:port"),
        ("USER_SERVICE_URL", "http://[::1:8001", "http://host:port"),
        ("ORDER_SERVICE_URL", f"http://me:{SECRET}@127.0.0.1:8002", "without credentials"),
        ("PRODUCT_SERVICE_TIMEOUT", "nan", "finite"),
        ("SETTLE_AFTER", "0", "greater than 0"),
        ("ORDER_TIMEOUT", "121", "less than or equal to 120"),
        ("AUTH_REQUIRED", "maybe", "must be true or false"),
        ("CORS_ORIGINS", "https://shop.example, nonsense", "https://shop.example"),
        ("CORS_ORIGINS", "https://Shop.Example", "as browsers send them"),
        ("CORS_ORIGINS", "https://shop.example:443", "as browsers send them"),
        ("CORS_ORIGINS", "http://[::1]:80", "as browsers send them"),
        ("CORS_ORIGINS", "https://shop.example/", "as browsers send them"),
        ("CORS_ORIGINS", f"https://user:{SECRET}@shop.example", "as browsers send them"),
        ("CORS_ORIGINS", "https://shop.*.example", "https://*.shop.example"),
        ("CA_FILE", "/no/such/file", "PEM"),
        ("CA_FILE", __file__, "PEM"),
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
        ("REDIS_PORT", "tcp://10.0.0.7:6379", 6379),  # set by Kubernetes
        ("CORS_ORIGINS", "*", "*"),
        ("CORS_ORIGINS", "http://[::1]:3000,", "http://[::1]:3000,"),
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
    with pytest.raises(CannotStart, match=r"^SHOPSPHERE_ENV_FILE cannot be read: No such file"):
        Settings.load()
    env_file.write_text("USE_REDIS=false\n", encoding="utf-16")  # as `>` of PowerShell 5.1 does
    with pytest.raises(CannotStart, match=r"^SHOPSPHERE_ENV_FILE .* UTF-8"):
        Settings.load()
    env_file.unlink()
    env_file.mkdir()
    with pytest.raises(CannotStart, match=r"^SHOPSPHERE_ENV_FILE cannot be read: "):
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
        with pytest.raises(
            CannotStart, match=r"^SHOPSPHERE_ENV_FILE cannot be read: Permission denied"
        ):
            Settings.load()
    finally:
        os.seteuid(me)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        (f"rediss://shop:{SECRET}@[::1]:6380/0?ssl_cert_reqs=none", "rediss://[::1]:6380/0"),
        (f"redis://shop:{SECRET}@more@cache.example:6380", "cache.example:6380"),
        (f"redis://shop:0/{SECRET}@cache.example", "cache.example"),
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
        "AUTH_REQUIERD for AUTH_REQUIRED", "REDIS_PROT for REDIS_PORT", "USE_REDDIS for USE_REDIS"
    ]  # fmt: skip


def test_all_wrong_values_are_named_in_one_line_which_shows_none_of_them(env_file: Path) -> None:
    env_file.write_text(
        f"REDIS_PREFIX={SECRET}!\nJWT_SECRET={SECRET}\n"
        f"JWT_EXPIRES_MINUTES={SECRET}\nAUTH_REQUIRED=true\n"
    )
    with pytest.raises(CannotStart) as refusal:
        Settings.load()
    named = re.findall("([A-Z_]+) must", str(refusal.value))
    assert named == ["REDIS_PREFIX", "JWT_SECRET", "JWT_EXPIRES_MINUTES"]
    assert SECRET not in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "line", [f"AUTH_REQUIRED: {SECRET}", "AUTH_REQUIRED", f'JWT_SECRET="{SECRET}', "A:=1"]
)
def test_a_line_that_cannot_be_parsed_stops_the_start(env_file: Path, line: str) -> None:
    env_file.write_text(f"# a comment\n\nexport USE_REDIS=false\n{line}\n")
    with pytest.raises(CannotStart, match=r"^\.env, line 4: must be NAME=value") as refusal:
        Settings.load()
    assert SECRET not in str(refusal.value)


def test_what_kubernetes_sets_hides_nothing(
    monkeypatch: pytest.MonkeyPatch, env_file: Path
) -> None:
    env_file.write_text("REDIS_PORT=6380\n")
    monkeypatch.setenv("REDIS_PORT", "tcp://10.0.0.7:6379")
    assert Settings.load().redis_port == 6380


def test_a_value_of_a_file_is_taken_literally(
    monkeypatch: pytest.MonkeyPatch, env_file: Path
) -> None:
    monkeypatch.setenv("NAME", "expanded")
    env_file.write_text("\ufeffREDIS_PASSWORD=a${NAME}$NAME\nJWT_SECRET='${x:-y}' # a comment\n")
    loaded = Settings.load()
    assert loaded.redis_password.get_secret_value() == "a${NAME}$NAME"
    assert loaded.jwt_secret.get_secret_value() == "${x:-y}"


@pytest.mark.parametrize(
    "environment",
    [
        {"USE_REDIS": "False", "REDIS_URL": "nonsense", "REDIS_PREFIX": "{}", "REDIS_PORT": "six"},
        {"REDIS_URL": "redis://cache:1", "REDIS_HOST": "a/b", "REDIS_PORT": "tcp://10.0.0.7:6379"},
        {"REDIS_URL": "redis://cache:1", "REDIS_PORT": "six", "REDIS_PASSWORD_FILE": "/none"},
    ],
)
def test_what_does_not_count_is_not_checked(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    for variable, text in environment.items():
        monkeypatch.setenv(variable, text)
    loaded = Settings.load()
    assert loaded.use_redis == "false" or loaded.redis_full_url == "redis://cache:1"


def test_each_secret_can_be_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secrets = {
        "JWT_SECRET": f"{SECRET} of 32 bytes or more ü", "REDIS_PASSWORD": f" {SECRET}\t",
        "JWT_SECRET_OLD": f"{SECRET}, which was used before",
        "ADMIN_PASSWORD": SECRET, "METRICS_TOKEN": SECRET, "REDIS_URL": f"redis://:{SECRET}@cache",
    }  # fmt: skip
    assert set(Settings.secrets()) == set(secrets)
    monkeypatch.setenv("AUTH_REQUIRED", "true")
    monkeypatch.setenv("ADMIN_EMAIL", "admin@example.com")
    for variable, secret in secrets.items():
        if variable == "REDIS_URL":  # the others count only without it
            assert Settings.load().redis_full_url.startswith("redis://:%20hunter2")
        file = tmp_path / variable
        file.write_bytes(f"{secret}\r\n".encode())
        monkeypatch.setenv(f"{variable}_FILE", str(file))
        if variable != "JWT_SECRET":
            monkeypatch.setenv(variable, "")
    loaded = Settings.load()
    for variable in secrets.keys() - {"REDIS_PASSWORD"}:
        assert getattr(loaded, variable.lower()).get_secret_value() == secrets[variable]


@pytest.mark.parametrize(
    ("file", "problem"),
    [(SECRET, "cannot be read"), (".", "cannot be read"), ("empty", "empty"), ("latin", "UTF-8")],
)
def test_a_file_of_a_secret_that_is_of_no_use_stops_the_start_and_shows_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: str, problem: str
) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "latin").write_bytes(SECRET.encode() + b"\xff")
    monkeypatch.setenv("JWT_SECRET_FILE", str(tmp_path / file))
    with pytest.raises(CannotStart, match=f"^JWT_SECRET_FILE .*{problem}") as refusal:
        Settings.load()
    assert SECRET not in str(refusal.value)


def test_a_secret_and_its_file_are_not_both_set(
    monkeypatch: pytest.MonkeyPatch, env_file: Path
) -> None:
    env_file.write_text("METRICS_TOKEN_FILE=/run/secrets/metrics\n")
    monkeypatch.setenv("METRICS_TOKEN", SECRET)
    with pytest.raises(CannotStart, match=r"^METRICS_TOKEN and METRICS_TOKEN_FILE are both set"):
        Settings.load()


def test_a_value_that_is_no_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JWT_SECRET", "\udcff" * 40)
    with pytest.raises(CannotStart, match=r"^JWT_SECRET is not in UTF-8\.$"):
        Settings.load()


def test_a_user_of_redis_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_USERNAME", "a shop")
    monkeypatch.setenv("REDIS_PASSWORD", SECRET)
    assert Settings.load().redis_full_url == f"redis://a%20shop:{SECRET}@localhost:6379"

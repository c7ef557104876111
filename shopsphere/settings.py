"""All settings, from the environment or a `.env` file next to the services, checked at startup."""

import argparse
import multiprocessing
import os
import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import quote, urlsplit

from dotenv import dotenv_values
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from shopsphere.domain.people import MAX_PASSWORD_LENGTH, MIN_PASSWORD_LENGTH, checked_email

ENV_FILE = Path(
    os.environ.get("SHOPSPHERE_ENV_FILE") or Path(__file__).resolve().parent.parent / ".env"
)
MIN_SECRET_BYTES = 32


class CannotStart(Exception):
    """A service cannot start; the message is the only line shown to the user."""


_PLAINER = {
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "float_parsing": "must be a number",
    "bool_parsing": "must be true or false",
    "string_type": "must be a text",
}


def in_plain_words(kind: str, message: str) -> str:
    """Return pydantic's complaint about a value, to follow the value's name in a sentence."""
    return _PLAINER.get(kind) or re.sub(
        "^(Value error, |Input |String |List )| after validation, .*", "", message
    ).replace("should", "must", 1)


def _service_url(url: str) -> str:
    pattern = r"https?://(\w[\w.-]*|\[[\w.:%]+\])(:\d{1,5})?(/[^\s?#]*)?"
    if not re.fullmatch(pattern, url) or urlsplit(url).port == 0:  # ValueError above 65535
        raise ValueError("must be http://host:port or https://host:port, without credentials")
    return url.rstrip("/")


def _host(host: str) -> str:
    if not re.fullmatch(r"[\w.:-]+", host):
        raise ValueError("must be the name or an address of a machine, such as localhost")
    return host


def _redis_url(url: SecretStr) -> SecretStr:
    schemes = r"(rediss?|unix|redis\+sentinel|redis\+cluster)://"
    if url and not re.match(schemes, url.get_secret_value()):
        raise ValueError(
            "must start with redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://"
        )
    return url


def _prefix(prefix: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.:-]{1,64}", prefix) or prefix.strip(":") != prefix:
        raise ValueError("must be 1 to 64 letters, digits, '_', '.', '-' or inner ':'")
    return prefix


def _origins(text: str) -> str:
    for origin in filter(None, (part.strip() for part in text.split(","))):
        if origin != "*" and not re.fullmatch(r"https?://[^\s/?#]+", origin):
            raise ValueError("must be '*' or origins such as https://shop.example, comma-separated")
    return text


UNIT_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
LOGIN_LIMIT = r"([1-9]\d{0,6}) ?(?:/|per) ?([1-9]\d{0,2}|) ?(second|minute|hour|day)s?"


def failures_in_seconds(limit: str) -> tuple[int, int]:
    """Return how many failed logins a LOGIN_LIMIT allows in how many seconds; raise ValueError."""
    found = re.fullmatch(LOGIN_LIMIT, limit.lower())
    if found is None:
        raise ValueError("must be one limit, such as 10/minute or 100/2 hours")
    failures, multiple, unit = found.groups()
    return int(failures), int(multiple or 1) * UNIT_SECONDS[unit]


def _metrics_token(token: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[\x21-\x7e]*", token.get_secret_value()):
        raise ValueError("must be printable ASCII characters, without spaces")
    return token


ServiceUrl = Annotated[str, AfterValidator(_service_url)]
Seconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]


class Settings(BaseSettings):
    """The settings of a service. Use `Settings.load()` to get them."""

    model_config = SettingsConfigDict(
        env_file_encoding="utf-8", extra="ignore", env_ignore_empty=True
    )

    use_redis: Annotated[Literal["true", "false", "required"], BeforeValidator(str.lower)] = "true"
    redis_host: Annotated[str, AfterValidator(_host)] = "localhost"
    redis_port: int = Field(default=6379, ge=1, le=65535)
    redis_password: SecretStr = SecretStr("")
    redis_url: Annotated[SecretStr, AfterValidator(_redis_url)] = SecretStr("")
    redis_prefix: Annotated[str, AfterValidator(_prefix)] = "shopsphere"
    product_service_url: ServiceUrl = "http://127.0.0.1:8000"
    user_service_url: ServiceUrl = "http://127.0.0.1:8001"
    order_service_url: ServiceUrl = "http://127.0.0.1:8002"
    product_service_timeout: Seconds = 3
    order_timeout: Annotated[Seconds, Field(le=120)] = 10
    settle_after: Seconds = 30
    settle_interval: Seconds = 5
    auth_required: bool = False  # above what is checked against it
    jwt_secret: SecretStr = SecretStr("supersecret")
    jwt_expires_minutes: int = Field(default=60, ge=1, le=525_600)
    cors_origins: Annotated[str, AfterValidator(_origins)] = "*"
    bcrypt_rounds: int = Field(default=12, ge=4, le=16)
    admin_email: Annotated[str, AfterValidator(lambda text: text and checked_email(text))] = ""
    admin_password: SecretStr = SecretStr("")
    metrics_token: Annotated[SecretStr, AfterValidator(_metrics_token)] = SecretStr("")
    login_limit: Annotated[str, AfterValidator(lambda text: failures_in_seconds(text) and text)] = (
        "10/minute"
    )
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(str.upper)
    ] = "INFO"
    log_format: Annotated[Literal["text", "json"], BeforeValidator(str.lower)] = "text"

    @field_validator("jwt_secret")
    @classmethod
    def _own_secret(cls, secret: SecretStr, info: ValidationInfo) -> SecretStr:
        is_short = len(secret.get_secret_value().encode()) < MIN_SECRET_BYTES
        if info.data.get("auth_required") and is_short:
            raise ValueError(
                "must be a secret of your own, of 32 bytes or more, where AUTH_REQUIRED is true"
            )
        return secret

    @field_validator("admin_password")
    @classmethod
    def _whole_administrator(cls, password: SecretStr, info: ValidationInfo) -> SecretStr:
        if "admin_email" in info.data and bool(password) != bool(info.data["admin_email"]):
            raise ValueError("must be set where ADMIN_EMAIL is, and only there")
        if password and not MIN_PASSWORD_LENGTH <= len(password) <= MAX_PASSWORD_LENGTH:
            raise ValueError("must have 8 to 128 characters")
        return password

    @classmethod
    def load(cls) -> Self:
        """Read the settings; raise CannotStart, naming each wrong variable but not its value."""
        try:
            is_named = os.environ.get("SHOPSPHERE_ENV_FILE")
            if ENV_FILE.is_dir() or (is_named and not ENV_FILE.exists()):
                raise CannotStart(f"SHOPSPHERE_ENV_FILE: {ENV_FILE.name} is not a file.")
            return cls(_env_file=ENV_FILE)  # type: ignore[call-arg]  # mypy sees fields only
        except ValidationError as error:
            raise CannotStart(settings_error(error)) from None
        except UnicodeDecodeError:
            raise CannotStart(f"{ENV_FILE.name} cannot be read: save it as UTF-8.") from None
        except PermissionError:
            raise CannotStart(f"{ENV_FILE.name} must not be read by this user.") from None

    @classmethod
    def misspelt(cls) -> Iterator[tuple[str, str]]:
        """Yield each variable that looks like a misspelt setting, with that setting."""
        known = [name.upper() for name in cls.model_fields]
        for variable in sorted({*os.environ, *dotenv_values(ENV_FILE)}):
            for meant in get_close_matches(variable.upper(), known, 1, 0.9):
                if meant != variable.upper():
                    yield variable, meant

    @property
    def redis_address(self) -> str:
        """The address of Redis, without any password."""
        url = self.redis_url.get_secret_value()
        if not url:
            return f"{self.redis_host}:{self.redis_port}"
        scheme, _, rest = url.partition("://")
        return f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}"

    @property
    def redis_full_url(self) -> str:
        """The URL to connect to, with the password; never log it."""
        host = f"[{self.redis_host}]" if ":" in self.redis_host else self.redis_host
        password = quote(self.redis_password.get_secret_value(), safe="")
        return self.redis_url.get_secret_value() or f"redis://:{password}@{host}:{self.redis_port}"

    @property
    def origins(self) -> list[str]:
        return [part.strip() for part in self.cors_origins.split(",") if part.strip()]


def settings_error(error: ValidationError) -> str:
    """Return one line that names each wrong variable and its valid values."""
    return " ".join(
        f"{each['loc'][0]} ".upper()
        + in_plain_words(each["type"], each["msg"])
        + ". Set it in the environment or in .env; see .env.example."
        for each in error.errors()
    )


def workers_asked_for() -> int:
    """Return how many workers uvicorn was asked to run.

    A worker of uvicorn 0.54 cannot tell. It is a multiprocessing child, which gets the same command
    line; without `--workers`, uvicorn reads WEB_CONCURRENCY.
    """
    if multiprocessing.parent_process() is None:
        return 1
    options = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    options.add_argument("--workers", default=os.environ.get("WEB_CONCURRENCY", "1"))
    asked: str = options.parse_known_args()[0].workers
    return int(asked) if asked.isdigit() else 1

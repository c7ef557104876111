"""All settings, from the environment or a `.env` file next to the services, checked at startup."""

import io
import os
import re
import ssl
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import quote, urlsplit

import pydantic
from dotenv.parser import parse_stream
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, SecretStr, field_validator

from shopsphere import ROOT
from shopsphere.domain.people import MAX_PASSWORD_LENGTH, MIN_PASSWORD_LENGTH, checked_email

ENV_FILE = Path(os.environ.get("SHOPSPHERE_ENV_FILE") or ROOT / ".env")
MIN_SECRET_BYTES = 32


class CannotStart(Exception):
    """A service cannot start; the message is the only line shown to the user."""


_PLAINER = {
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "float_parsing": "must be a number",
    "bool_parsing": "must be true or false",
    "string_type": "must be a string",
}


def in_plain_words(kind: str, message: str) -> str:
    """Return pydantic's message about a value, to follow the value's name in a sentence."""
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
        raise ValueError("must be a host name or address, such as localhost or 10.0.0.5")
    return host


def _prefix(prefix: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.:-]{1,64}", prefix) or prefix.strip(":") != prefix:
        raise ValueError("must be 1 to 64 letters, digits or '_.-:', with no ':' at either end")
    return prefix


ORIGIN = (
    r"\*|(http(?!.*:80$)|https(?!.*:443$))://"
    r"((\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:]+\])(:[1-9]\d{0,4})?"
)
"""The form in which browsers send an origin; its host can start with a wildcard."""


def _origins(text: str) -> str:
    if not all(re.fullmatch(ORIGIN, part.strip()) for part in text.split(",") if part.strip()):
        example = "https://shop.example,https://*.shop.example"
        raise ValueError(f"must be * or comma-separated origins as browsers send them: {example}")
    return text


def _ca_file(file: str) -> str:
    try:
        if file:
            ssl.create_default_context(cafile=file)
    except OSError:
        raise ValueError("must be a readable file of PEM certificates") from None
    return file


UNIT_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
LOGIN_LIMIT = r"([1-9]\d{0,6}) ?(?:/|per) ?([1-9]\d{0,2}|) ?(second|minute|hour|day)s?"


def failures_in_seconds(limit: str) -> tuple[int, int]:
    """Return how many failed logins a LOGIN_LIMIT allows in how many seconds; raise ValueError."""
    found = re.fullmatch(LOGIN_LIMIT, limit.lower())
    if found is None:
        raise ValueError("must be a limit such as 10/minute or 100/2 hours")
    failures, multiple, unit = found.groups()
    return int(failures), int(multiple or 1) * UNIT_SECONDS[unit]


def _metrics_token(token: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[\x21-\x7e]*", token.get_secret_value()):
        raise ValueError("must be printable ASCII characters, without spaces")
    return token


ServiceUrl = Annotated[str, AfterValidator(_service_url)]
Seconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]


class Settings(BaseModel):
    """The settings of a service. Use `Settings.load()` to get them."""

    model_config = pydantic.ConfigDict(validate_default=True)

    use_redis: Annotated[Literal["true", "false", "required"], BeforeValidator(str.lower)] = "true"
    redis_host: Annotated[str, AfterValidator(_host)] = "localhost"
    redis_port: int = Field(default=6379, ge=1, le=65535)
    redis_username: str = ""
    redis_password: SecretStr = SecretStr("")
    redis_url: SecretStr = SecretStr("")
    redis_prefix: Annotated[str, AfterValidator(_prefix)] = "shopsphere"
    product_service_url: ServiceUrl = "http://127.0.0.1:8000"
    user_service_url: ServiceUrl = "http://127.0.0.1:8001"
    order_service_url: ServiceUrl = "http://127.0.0.1:8002"
    ca_file: Annotated[str, AfterValidator(_ca_file)] = ""
    product_service_timeout: Seconds = 3
    order_timeout: Annotated[Seconds, Field(le=120)] = 10
    settle_after: Seconds = 30
    settle_interval: Seconds = 5
    auth_required: bool = False  # above what is checked against it
    jwt_secret: SecretStr = SecretStr("supersecret")
    jwt_secret_old: SecretStr = SecretStr("")
    jwt_expires_minutes: int = Field(default=60, ge=1, le=525_600)
    session_days: int = Field(default=30, ge=1, le=3650)
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

    @field_validator("jwt_secret", "jwt_secret_old")
    @classmethod
    def _own_secret(cls, secret: SecretStr, info: pydantic.ValidationInfo) -> SecretStr:
        is_unused = not secret and info.field_name == "jwt_secret_old"
        is_short = len(secret.get_secret_value().encode()) < MIN_SECRET_BYTES
        if is_short and not is_unused and info.data.get("auth_required"):
            raise ValueError("must have at least 32 bytes if AUTH_REQUIRED is true")
        return secret

    @field_validator("admin_password")
    @classmethod
    def _whole_administrator(cls, password: SecretStr, info: pydantic.ValidationInfo) -> SecretStr:
        if "admin_email" in info.data and bool(password) != bool(info.data["admin_email"]):
            raise ValueError("must be set together with ADMIN_EMAIL")
        if password and not MIN_PASSWORD_LENGTH <= len(password) <= MAX_PASSWORD_LENGTH:
            raise ValueError("must have 8 to 128 characters")
        return password

    @classmethod
    def load(cls) -> Self:
        """Read the settings; raise CannotStart, naming each wrong variable but not its value."""
        given = _variables()
        unused = _unused(given)
        counted = {name: text for name, text in given.items() if not re.fullmatch(unused, name)}
        for secret in cls.secrets():
            if file := counted.get(f"{secret}_FILE"):
                if secret in counted:
                    raise CannotStart(f"{secret} and {secret}_FILE are both set. Keep one of them.")
                counted[secret] = _read(Path(file), f"{secret}_FILE").rstrip("\r\n")
                if not counted[secret]:
                    raise CannotStart(f"{secret}_FILE names an empty file.")
        for name in counted.keys() & {name.upper() for name in cls.model_fields}:
            if counted[name].encode(errors="replace").decode() != counted[name]:
                raise CannotStart(f"{name} is not in UTF-8.")
        try:
            return cls.model_validate({name.lower(): text for name, text in counted.items()})
        except pydantic.ValidationError as error:
            raise CannotStart(settings_error(error)) from None

    @classmethod
    def secrets(cls) -> list[str]:
        """Return the variables of secrets; with `_FILE` appended, each names a file to read."""
        fields = cls.model_fields.items()
        return [name.upper() for name, field in fields if field.annotation is SecretStr]

    @classmethod
    def misspelt(cls) -> Iterator[tuple[str, str]]:
        """Yield each variable that looks like a misspelt setting, with that setting."""
        known = [name.upper() for name in cls.model_fields]
        known += [f"{secret}_FILE" for secret in cls.secrets()]
        for variable in sorted(_variables()):
            for meant in get_close_matches(variable, known, 1, 0.9):
                if meant != variable:
                    yield variable, meant

    @property
    def redis_address(self) -> str:
        """The address of Redis, without any password."""
        scheme, _, rest = self.redis_full_url.partition("://")
        address = f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}"
        return address.removeprefix("redis://")

    @property
    def redis_full_url(self) -> str:
        """The URL to connect to, with the password; never log it."""
        host = f"[{self.redis_host}]" if ":" in self.redis_host else self.redis_host
        name_and_password = self.redis_username, self.redis_password.get_secret_value()
        login = ":".join(quote(part, safe="") for part in name_and_password)
        return self.redis_url.get_secret_value() or f"redis://{login}@{host}:{self.redis_port}"

    @property
    def jwt_secrets(self) -> list[str]:
        """The secret to sign with, then another to verify with, if there is one; never log them."""
        secrets = self.jwt_secret, self.jwt_secret_old
        return [secret.get_secret_value() for secret in secrets if secret]

    @property
    def origins(self) -> list[str]:
        return [part.strip() for part in self.cors_origins.split(",") if part.strip()]


def settings_error(error: pydantic.ValidationError) -> str:
    """Return one line that names each wrong variable and its valid values."""
    wrong = [
        f"{each['loc'][0]} ".upper() + in_plain_words(each["type"], each["msg"])
        for each in error.errors()
    ]
    return f"{'. '.join(wrong)}. See .env.example."


def _variables() -> dict[str, str]:
    """Return what the env file and the environment, which wins, set to something, by upper-case
    name. Raise CannotStart if the file has a line that is not an assignment."""
    kept: dict[str | None, str | None] = {}
    is_named = os.environ.get("SHOPSPHERE_ENV_FILE")
    if is_named or ENV_FILE.exists():
        text = _read(ENV_FILE, "SHOPSPHERE_ENV_FILE" if is_named else ENV_FILE.name)
        for line in parse_stream(io.StringIO(text)):
            is_name = line.key is None or re.fullmatch(r"[\w.-]+", line.key)
            if line.error or not is_name or (line.key and line.value is None):
                where = f"{ENV_FILE.name}, line {line.original.line}"
                raise CannotStart(f"{where}: must be NAME=value, a comment or empty.")
            kept[line.key] = line.value
    both = [*kept.items(), *os.environ.items()]
    given = [(name.upper(), text) for name, text in both if name and text]
    # Kubernetes sets REDIS_PORT=tcp://... in every pod if a Service is called redis.
    return {name: text for name, text in given if name != "REDIS_PORT" or text[:6] != "tcp://"}


def _read(file: Path, name: str) -> str:
    """Return the text of a file; raise CannotStart, without its path, which may be a secret."""
    try:
        return file.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise CannotStart(f"{name} is not in UTF-8. Save it as UTF-8.") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", "its name is not valid")
        raise CannotStart(f"{name} cannot be read: {why}.") from None


def _unused(given: Mapping[str, str]) -> str:
    """Return a pattern of the variables that do not count because of others."""
    if given.get("USE_REDIS", "").lower() == "false":
        return "REDIS_.*"
    has_url = {"REDIS_URL", "REDIS_URL_FILE"} & given.keys()
    return "REDIS_(HOST|PORT|USERNAME|PASSWORD)(_FILE)?" if has_url else ""

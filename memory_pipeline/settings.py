"""Every setting, in one frozen object, read from ``MEMORY_PIPELINE_*`` and checked once.

No other module reads the environment. Settings say where things are and how they are done; they
hold no connection and start nothing.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, quote, urlencode, urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from memory_pipeline.errors import SettingsError

PREFIX = "MEMORY_PIPELINE_"
RESERVED_KEYS = frozenset({"hash", "ts", "project_id"})
POSTGRES = ("postgresql://", "postgres://")
# libpq ends a password at its first @ and a host at a slash: a further @ is a piece of a password
# that it takes for the host or the database, and names in its errors.
ONE_AT = re.compile(r"[a-z]+://([^@/]*@)?+[^@?]*(\?.*)?", re.DOTALL)

Fields = Annotated[tuple[str, ...], NoDecode]
TenantBy = Literal["user_id", "project_id", "both"]


class Settings(BaseSettings):
    """How this installation works. Build it with ``Settings.load()``, which explains bad values."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    # -- where things are
    home: Path = Field(Path(".memory_pipeline"), description="folder of all local data and logs")
    database_url: SecretStr | None = Field(None, description="Postgres with memory_logs")
    dagster_database_url: SecretStr | None = Field(None, description="Postgres of Dagster itself")
    chroma_url: str | None = Field(None, description="Chroma server, http:// or https://")
    chroma_urls: Fields = Field(
        (), description="more Chroma servers over which tenants are spread, a,b,c"
    )
    chroma_servers: int = Field(1, ge=1, le=64, description="Chroma servers that `up` runs here")
    chroma_token: SecretStr | None = Field(None, description="token sent to Chroma with each call")
    chroma_token_header: str = Field("Authorization", description="header that carries the token")
    webserver_port: int = Field(0, ge=0, le=65535, description="Dagster UI; 0 picks a free port")

    # -- what a tenant and a document are
    tenant_by: TenantBy = Field("user_id", description="the column that tells tenants apart")
    document: Literal["full", "none"] = Field("full", description="store raw_data in Chroma or not")
    text_fields: Fields = Field(
        ("title", "summary", "details", "content", "text", "message", "*"),
        description="fields of raw_data that are searched, in order; * is every other text",
    )
    text_limit: int = Field(4000, ge=1, le=1_000_000, description="characters of searchable text")
    metadata_fields: Fields = Field(
        ("date", "task", "component"), description="fields of raw_data to filter by"
    )

    # -- the model
    embedder: Literal["model", "hashing"] = Field(
        "model", description="the real model, or a lexical stand-in for tests"
    )
    model_dir: Path | None = Field(None, description="folder of the model; default: user cache")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    precision: Literal["auto", "bf16", "f32"] = Field("auto", description="arithmetic of the model")
    embed_batch_size: int = Field(32, ge=1, le=1024, description="texts in one pass of the model")

    # -- how changes are captured and synced
    notify: Literal["on", "off"] = Field("on", description="wake-up hints through NOTIFY")
    backup: Literal["on", "off"] = Field("on", description="keep vectors in memory_logs.embedding")
    batch_size: int = Field(200, ge=1, le=5000, description="changes claimed at once")
    rebuild_batch_size: int = Field(
        250, ge=1, le=5000, description="documents in one write of a rebuild; others wait for it"
    )
    rebuild_batch_size_idle: int = Field(
        500,
        ge=1,
        le=5000,
        description="the same while no other tenant is synced",
    )
    batch_bytes: int = Field(16_000_000, ge=1, description="bytes of raw_data read at once")
    lease_seconds: float = Field(8.0, ge=1, le=600, description="how long a worker owns a tenant")
    request_seconds: float = Field(5.0, gt=0, le=300, description="longest call to Chroma")
    grace_seconds: float = Field(5.0, ge=0, le=3600, description="how late a lost request may land")
    max_attempts: int = Field(5, ge=1, le=100, description="tries before a memory is a dead letter")
    retry_seconds: float = Field(2.0, gt=0, le=3600, description="first pause after an error")
    retry_max_seconds: float = Field(60.0, gt=0, le=86400, description="longest such pause")
    retire_seconds: float = Field(
        60.0, ge=0, description="how long a replaced collection is kept for searches under way"
    )
    dead_letter_search: Literal["previous", "hidden"] = Field(
        "previous",
        description="how a memory is found whose newest content is refused: by its older vector "
        "(and shown as it is now), or not at all",
    )
    on_server_loss: Literal["wait", "rebuild"] = Field(
        "wait",
        description="what happens when a Chroma server has lost its data: "
        "wait for an operator, or rebuild by itself",
    )
    live: Literal["on", "off"] = Field(
        "on", description="whether `up` runs a live process; without it runs do all the syncing"
    )
    poll_seconds: float = Field(
        0.25, gt=0, le=60, description="how often the live process looks, whatever the hints say"
    )
    run_takeover_seconds: float = Field(
        30.0, ge=0, description="age of a change that runs take over from a live process"
    )
    metrics_port: int | None = Field(
        None, ge=1, le=65535, description="where the live process serves figures for Prometheus"
    )
    # No other: `up` and health checks ask on loopback.
    metrics_address: Literal["127.0.0.1", "0.0.0.0"] = Field(  # noqa: S104 - asked for by name
        "127.0.0.1", description="who gets them: this machine alone, or everybody (0.0.0.0)"
    )
    log_tenants: Literal["name", "key"] = Field(
        "name", description="what log lines call a tenant: its name, or its Dagster partition key"
    )
    alert_url: SecretStr | None = Field(
        None, description="where failed runs and new dead letters are told, as JSON by POST"
    )
    sensor_seconds: int = Field(5, ge=1, le=3600, description="seconds between two sensor ticks")

    @classmethod
    def load(cls, **overrides: Any) -> "Settings":
        """Read the environment, with ``overrides`` before it.

        Raises:
            SettingsError: a value is not allowed; the message names the variable, the value
                (hidden where it may hold a secret) and what is allowed.

        """
        try:
            return cls(**overrides)
        except ValidationError as error:
            raise SettingsError("\n".join(_explain(e) for e in error.errors())) from None

    @field_validator("home", mode="before")
    @classmethod
    def _named_home(cls, value: object) -> object:
        """Refuse an empty variable: as a path it is whatever folder one happens to be in."""
        if value == "":
            raise ValueError("allowed is the path of a folder")
        return value

    @field_validator("text_fields", "metadata_fields", "chroma_urls", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """Accept ``a,b,c`` from the environment."""
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("text_fields", "metadata_fields")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError("allowed is a list of different names, separated by commas")
        return value

    @field_validator("metadata_fields")
    @classmethod
    def _allowed_keys(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for key in value:
            if (
                not key
                or key in RESERVED_KEYS
                or key.startswith(("#", "$"))
                or key == "chroma:document"
            ):
                raise ValueError(
                    f"{key!r} is taken; names may not be {', '.join(sorted(RESERVED_KEYS))}, "
                    "nor start with # or $"
                )
            if names_date(key) and f"{key}_ts" in value:
                raise ValueError(f"'{key}_ts' is taken; it is made from {key!r}")
        return value

    @field_validator("chroma_url")
    @classmethod
    def _chroma_address(cls, value: str | None) -> str | None:
        return None if value is None else _chroma_address(value)

    @field_validator("chroma_urls")
    @classmethod
    def _chroma_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        addresses = tuple(map(_chroma_address, value))
        if len(set(addresses)) != len(addresses):
            raise ValueError("allowed is a list of different addresses, separated by commas")
        return addresses

    @field_validator("database_url", "dagster_database_url")
    @classmethod
    def _postgres_address(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _is_postgres_address(value.get_secret_value()):
            raise ValueError(
                "allowed is postgresql://user:password@host:port/database?options with options of "
                "libpq; in a name or password, @ is %40, / is %2F and % is %25"
            )
        return value

    @field_validator("alert_url")
    @classmethod
    def _alert_address(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            _http_address(value.get_secret_value(), "http://host/path or https://host/path")
        return value

    @model_validator(mode="after")
    def _timeouts_fit(self) -> "Settings":
        # A request that outlives the lease is a zombie by construction.
        if self.request_seconds > self.lease_seconds - 1:
            raise ValueError(
                f"{PREFIX}REQUEST_SECONDS={self.request_seconds} has to be at least one second "
                f"below {PREFIX}LEASE_SECONDS={self.lease_seconds}"
            )
        return self

    @model_validator(mode="after")
    def _chroma_named_once(self) -> "Settings":
        if self.chroma_url in self.chroma_urls:
            raise ValueError(
                f"{PREFIX}CHROMA_URLS names the server of {PREFIX}CHROMA_URL again; "
                "allowed are further ones"
            )
        return self

    def chroma_addresses(self) -> tuple[str, ...]:
        """Return the address of every Chroma server, ``chroma_url`` first."""
        return (*(() if self.chroma_url is None else (self.chroma_url,)), *self.chroma_urls)

    def model_cache(self) -> Path:
        """Where the model's files live."""
        if self.model_dir is not None:
            return self.model_dir
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(base) / "memory_pipeline" / "all-mpnet-base-v2"

    def shown(self) -> dict[str, object]:
        """Return every setting as it may be printed: secrets and passwords are hidden."""
        return {name: _redacted(getattr(self, name)) for name in type(self).model_fields}


def _chroma_address(value: str) -> str:
    allowed = "http://host:port or https://host:port"
    parts = _http_address(value, allowed)
    if parts.path not in {"", "/"} or "?" in value or "#" in value:
        raise ValueError(f"allowed is {allowed}")
    if parts.username or parts.password:
        raise ValueError(
            f"allowed is an address without credentials; the token goes in {PREFIX}CHROMA_TOKEN"
        )
    return value.rstrip("/")


def _http_address(value: str, allowed: str) -> SplitResult:
    try:
        parts = urlsplit(value)
        sound = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:  # a port that is none, a bracket without the other
        sound = False
    if not sound:
        raise ValueError(f"allowed is {allowed}")
    return parts


def _redacted(value: object) -> object:
    if isinstance(value, SecretStr):
        secret = value.get_secret_value()
        if secret.startswith("http"):  # of a webhook the path is the secret
            return f"{urlsplit(secret).scheme}://{urlsplit(secret).hostname}/**********"
        return without_password(secret) if secret.startswith(POSTGRES) else "**********"
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def names_date(field: str) -> bool:
    """Whether a metadata field is named like a date: it gets a ``<field>_ts`` beside it."""
    named = field.startswith("date") or field.endswith(("_at", "_date", "_on"))
    return named and not field.endswith("_ts")


def _is_postgres_address(url: str) -> bool:
    try:
        port = conninfo_to_dict(url).get("port") or ""
    except (psycopg.Error, UnicodeError):  # what they say quotes the password
        return False
    sound = url.startswith(POSTGRES) and ONE_AT.fullmatch(url) is not None
    return sound and re.fullmatch("[0-9,]*", str(port)) is not None


def without_password(url: str) -> str:
    """Return the address of a database as it may be shown and kept: all but its secrets.

    It still works where the password is known otherwise.
    """
    parts = {
        option.keyword.decode(): option.val.decode()
        for option in Conninfo.parse(url.encode())
        if option.val and not option.dispchar  # by it libpq says: a secret, or for debugging
    }
    user, database = (quote(parts.pop(key, ""), safe="") for key in ("user", "dbname"))
    place = f"{parts.get('host', '')}:{parts.get('port', '')}".removesuffix(":")
    if re.fullmatch(r"[\w.-]*(:[0-9]+)?", place):
        parts = {key: value for key, value in parts.items() if key not in {"host", "port"}}
    else:  # a socket's folder, IPv6 and several hosts stay options, which need no brackets
        place = ""
    # libpq takes no + for a blank, and a socket's folder is easier to read with its slashes.
    options = urlencode(parts, safe="/:,", quote_via=quote)
    return f"postgresql://{user}{'@' * bool(user)}{place}/{database}{'?' * bool(options)}{options}"


def _explain(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    message = str(error["msg"]).removeprefix("Value error, ")
    if not where:
        return message
    secret = "url" in where or "token" in where
    value = "(hidden)" if secret else repr(error["input"])
    return f"{PREFIX}{where.upper()}={value}: {message}"

"""Every setting, in one frozen class, read from ``MEMORY_PIPELINE_*`` and checked once.

No other module reads the environment. Settings hold no connection and start nothing.
"""

import base64
import binascii
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from memory_pipeline.domain.table import MEMORY_LOGS, Table
from memory_pipeline.errors import SettingsError
from memory_pipeline.redact import without_password

PREFIX = "MEMORY_PIPELINE_"
RESERVED_KEYS = frozenset({"hash", "ts", "project_id"})
POSTGRES = ("postgresql://", "postgres://")
MOST_CHROMA_SERVERS = 64
# torch refuses leading zeros, and wraps around above 127.
DEVICES = re.compile(r"auto|cpu|mps|cuda(:(0|[1-9][0-9]?|1[01][0-9]|12[0-7]))?")
# libpq ends a password at its first @ and a host at a slash: it takes the rest of a password with a
# second @ for the host or the database, and quotes it in its errors.
ONE_AT = re.compile(r"[a-z]+://([^@/]*@)?+[^@?]*(\?.*)?", re.DOTALL)

WEBHOOK_PREFIX = "whsec_"
WEBHOOK_KEY_BYTES = range(24, 65)  # as the Standard Webhooks specification has it

Fields = Annotated[tuple[str, ...], NoDecode]
TenantBy = Literal["user_id", "project_id", "both"]
EMBEDDERS = "model, hashing, or module:attribute"
NAMED_EMBEDDER = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


class Settings(BaseSettings):
    """The settings of an installation; immutable, and safe to share between threads.

    Each field is read from the environment variable ``MEMORY_PIPELINE_<FIELD>``, with the field in
    capitals: ``database_url`` is ``MEMORY_PIPELINE_DATABASE_URL``. Build one with
    ``Settings.load()``, which raises SettingsError for a bad value.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    # -- where things are
    home: Path = Field(Path(".memory_pipeline"), description="folder of the local data and logs")
    database_url: SecretStr | None = Field(
        None, description="address of the Postgres with memory_logs"
    )
    listen_url: SecretStr | None = Field(
        None,
        description="address of the same Postgres for wake-up hints, where `DATABASE_URL` is that "
        "of a pooler; without it, polling alone finds changes there",
    )
    table: str = Field(
        str(MEMORY_LOGS),
        description="table of the memories: schema.table, spelled as in the catalog",
    )
    dagster_database_url: SecretStr | None = Field(
        None, description="address of the Postgres of Dagster's own storage"
    )
    chroma_url: str | None = Field(
        None, description="address of a Chroma server, http:// or https://"
    )
    chroma_urls: Fields = Field(
        (), description="addresses of more Chroma servers, a,b,c; tenants are spread over all"
    )
    chroma_servers: int = Field(
        1, ge=1, le=MOST_CHROMA_SERVERS, description="number of Chroma servers that `up` runs here"
    )
    chroma_token: SecretStr | None = Field(
        None, description="token sent to Chroma with each request"
    )
    chroma_token_header: str = Field("Authorization", description="header of the token")
    webserver_port: int = Field(
        0, ge=0, le=65535, description="port of the Dagster UI; 0 picks a free one"
    )

    # -- what a tenant and a document are
    tenant_by: TenantBy = Field(
        "user_id", description="column that identifies a tenant; both: a JSON array of the two"
    )
    document: Literal["full", "none"] = Field(
        "full", description="whether Chroma stores raw_data, or only vectors and metadata"
    )
    text_fields: Fields = Field(
        ("title", "summary", "details", "content", "text", "message", "*"),
        description="fields of raw_data that are embedded, in order; * is every other text",
    )
    text_limit: int = Field(
        4000, ge=1, le=1_000_000, description="characters of a memory that are embedded"
    )
    metadata_fields: Fields = Field(
        ("date", "task", "component"),
        description="fields of raw_data that a search can filter by; user.name is the field name "
        "of the object user",
    )

    # -- the model
    embedder: str = Field(
        "model",
        description="model, hashing (a lexical stand-in for tests), or module:attribute: a "
        "callable that takes the settings, or nothing, and returns an embedder",
    )
    model_dir: Path | None = Field(
        None, description="folder of the model's files; default: the user's cache"
    )
    device: str = Field(
        "auto",
        description="device of the model: auto, cpu, mps, cuda, or one of several: cuda:1; "
        "auto takes the first of cuda, mps and cpu that is here",
    )
    precision: Literal["auto", "bf16", "f32"] = Field(
        "auto", description="floating-point format of the model; auto: bf16 where it is fast"
    )
    embed_batch_size: int = Field(
        32, ge=1, le=1024, description="most texts in one pass of the model"
    )

    # -- how changes are captured and synced
    notify: Literal["on", "off"] = Field(
        "on", description="whether triggers wake workers by NOTIFY"
    )
    backup: Literal["on", "table", "off"] = Field(
        "on",
        description="where computed vectors are kept: on: in memory_logs.embedding; table: in a "
        "table of the pipeline's own, and memory_logs is only read; off: nowhere, and a rebuild "
        "computes them again",
    )
    batch_size: int = Field(200, ge=1, le=5000, description="most changes in one batch")
    rebuild_batch_size: int = Field(
        250, ge=1, le=5000, description="documents in one write of a rebuild; syncs wait for it"
    )
    rebuild_batch_size_idle: int = Field(
        500,
        ge=1,
        le=5000,
        description="documents in one write of a rebuild while no other tenant is synced",
    )
    batch_bytes: int = Field(16_000_000, ge=1, description="most bytes of raw_data in one batch")
    lease_seconds: float = Field(8.0, ge=1, le=600, description="duration of a lease on a tenant")
    request_seconds: float = Field(
        5.0, gt=0, le=300, description="time limit of a request to Chroma"
    )
    grace_seconds: float = Field(
        5.0,
        ge=0,
        le=3600,
        description="how long after its time limit a request may still be applied",
    )
    max_attempts: int = Field(
        5, ge=1, le=100, description="attempts before a memory is a dead letter"
    )
    retry_seconds: float = Field(2.0, gt=0, le=3600, description="first pause after an error")
    retry_max_seconds: float = Field(
        60.0, gt=0, le=86400, description="longest pause after repeated errors"
    )
    retire_seconds: float = Field(
        60.0, ge=0, description="how long a replaced collection is kept for running searches"
    )
    empty_tenant_seconds: float = Field(
        86_400.0,
        ge=0,
        description="how long a tenant without memories keeps its collection; 0: for good",
    )
    dead_letter_search: Literal["previous", "hidden"] = Field(
        "previous",
        description="if a memory's latest content cannot be indexed: `previous` keeps its previous "
        "vector searchable and returns the current content; `hidden` removes it from search",
    )
    on_server_loss: Literal["wait", "rebuild"] = Field(
        "wait",
        description="when a Chroma server has lost its data: wait for an operator, or rebuild "
        "its collections automatically",
    )
    live: Literal["on", "off"] = Field(
        "on", description="whether `up` runs a worker; without one, Dagster runs do all the syncing"
    )
    poll_seconds: float = Field(
        0.25,
        gt=0,
        le=60,
        description="how often a worker polls for changes, with or without NOTIFY",
    )
    quiet_seconds: float = Field(
        0.0,
        ge=0,
        le=43_200,
        description="longest pause between two touches of Postgres while nothing changes, for a "
        "database that bills for being awake; 0: never pause",
    )
    run_takeover_seconds: float = Field(
        30.0,
        ge=0,
        description="how old a pending change must be before a Dagster run syncs it instead of "
        "a worker",
    )
    metrics_port: int | None = Field(
        None, ge=1, le=65535, description="port where a worker serves metrics for Prometheus"
    )
    # No other address: `up` and health checks connect to loopback.
    metrics_address: Literal["127.0.0.1", "0.0.0.0"] = Field(  # noqa: S104 - asked for by name
        "127.0.0.1",
        description="address of the metrics: 127.0.0.1 for this machine only, 0.0.0.0 for any",
    )
    log_tenants: Literal["name", "key"] = Field(
        "name", description="what log lines call a tenant: its name, or its Dagster partition key"
    )
    alert_url: SecretStr | None = Field(
        None, description="webhook for failed runs and new dead letters; receives JSON by POST"
    )
    alert_secret: SecretStr | None = Field(
        None,
        description="signs alerts as Standard Webhooks do: whsec_ and 24 to 64 bytes in base64",
    )
    sensor_seconds: int = Field(5, ge=1, le=3600, description="seconds between two sensor ticks")

    @classmethod
    def load(cls, **overrides: Any) -> "Settings":
        """Read the environment; ``overrides`` take precedence over it.

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
        """Refuse an empty variable: as a path it would be the current folder."""
        if value == "":
            raise ValueError("allowed is the path of a folder")
        return value

    @field_validator("home", "model_dir")
    @classmethod
    def _known_user(cls, value: Path | None) -> Path | None:
        """Refuse ``~name`` of a user that this machine does not have."""
        try:
            if value is not None:
                value.expanduser()
        except RuntimeError:
            raise ValueError("there is no such user; allowed is the path of a folder") from None
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

    @field_validator("device")
    @classmethod
    def _device(cls, value: str) -> str:
        if DEVICES.fullmatch(value) is None:
            raise ValueError("allowed are auto, cpu, cuda, cuda:0, cuda:1 and so on, and mps")
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

    @field_validator("embedder")
    @classmethod
    def _embedder_name(cls, value: str) -> str:
        # The form alone: an import here would slow down every command.
        if value not in {"model", "hashing"} and not NAMED_EMBEDDER.fullmatch(value):
            raise ValueError(f"allowed are {EMBEDDERS}")
        return value

    @field_validator("table")
    @classmethod
    def _table_name(cls, value: str) -> str:
        return str(Table.parse(value))

    @field_validator("database_url", "listen_url", "dagster_database_url")
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

    @field_validator("alert_secret")
    @classmethod
    def _webhook_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            webhook_key(value.get_secret_value())
        return value

    @model_validator(mode="after")
    def _timeouts_fit(self) -> "Settings":
        # A request that outlives its lease could overwrite the next worker's.
        if self.request_seconds > self.lease_seconds - 1:
            raise ValueError(
                f"{PREFIX}REQUEST_SECONDS={self.request_seconds} must be at least one second "
                f"below {PREFIX}LEASE_SECONDS={self.lease_seconds}"
            )
        return self

    @model_validator(mode="after")
    def _chroma_named_once(self) -> "Settings":
        if self.chroma_url in self.chroma_urls:
            raise ValueError(
                f"{PREFIX}CHROMA_URLS repeats the server of {PREFIX}CHROMA_URL: it names only "
                "further servers"
            )
        return self

    def chroma_addresses(self) -> tuple[str, ...]:
        """Return the address of every Chroma server, ``chroma_url`` first."""
        return (*(() if self.chroma_url is None else (self.chroma_url,)), *self.chroma_urls)

    def model_cache(self) -> Path:
        """Return the folder of the model's files."""
        if self.model_dir is not None:
            return self.model_dir
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(base) / "memory_pipeline" / "all-mpnet-base-v2"

    def shown(self) -> dict[str, object]:
        """Return every setting for printing: secrets and passwords are hidden."""
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
    except ValueError:  # a port that is not a number, an unbalanced bracket
        sound = False
    if not sound:
        raise ValueError(f"allowed is {allowed}")
    return parts


def webhook_key(secret: str) -> bytes:
    """Return the key of a Standard Webhooks secret. Raises ValueError, without the secret."""
    try:
        key = base64.b64decode(secret.removeprefix(WEBHOOK_PREFIX), validate=True)
    except (binascii.Error, ValueError):  # the second for what is not ASCII
        key = b""
    if not secret.startswith(WEBHOOK_PREFIX) or len(key) not in WEBHOOK_KEY_BYTES:
        raise ValueError(f"allowed is {WEBHOOK_PREFIX} and 24 to 64 bytes in base64")
    return key


def _redacted(value: object) -> object:
    if isinstance(value, SecretStr):
        secret = value.get_secret_value()
        if secret.startswith("http"):  # the path of a webhook is its secret
            return f"{urlsplit(secret).scheme}://{urlsplit(secret).hostname}/**********"
        return without_password(secret) if secret.startswith(POSTGRES) else "**********"
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def names_date(field: str) -> bool:
    """Whether a metadata field is named like a date: documents then have ``<field>_ts`` too.

    The last part of a path names it.
    """
    starts = field.startswith("date") or field.rpartition(".")[2].startswith("date")
    return (starts or field.endswith(("_at", "_date", "_on"))) and not field.endswith("_ts")


def _is_postgres_address(url: str) -> bool:
    try:
        port = conninfo_to_dict(url).get("port") or ""
    except (psycopg.Error, UnicodeError):  # their messages quote the password
        return False
    sound = url.startswith(POSTGRES) and ONE_AT.fullmatch(url) is not None
    return sound and re.fullmatch("[0-9,]*", str(port)) is not None


def _explain(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    message = str(error["msg"]).removeprefix("Value error, ")
    if not where:
        return message
    secret = "url" in where or "token" in where or "secret" in where
    value = "(hidden)" if secret else repr(error["input"])
    return f"{PREFIX}{where.upper()}={value}: {message}"

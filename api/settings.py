"""The settings: environment variables with the prefix MINUTEBOOK_, and a `.env`."""

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, HttpUrl, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, DotEnvSettingsSource, SettingsConfigDict

from api.loopback import is_loopback

PREFIX: Final = "MINUTEBOOK_"
ENV_FILE: Final = ".env"


class SettingsError(Exception):
    """A setting is wrong; the message is one sentence for the operator."""


Seconds = Annotated[float, Field(gt=0, le=86_400)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Bytes = Annotated[int, Field(ge=1024, le=256 * 1024 * 1024)]
HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")]


class Settings(BaseSettings):
    """Everything an operator can set. Sizes are bytes, times are seconds."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_file=ENV_FILE, extra="ignore", frozen=True)

    database_url: SecretStr | None = Field(
        None, description="The PostgreSQL to use; absent: an embedded one."
    )
    data: Path = Field(Path(".minutebook"), description="Where the embedded PostgreSQL keeps its data.")
    keys: Path | None = Field(None, description="The folder of the keys; absent: `keys` in that of the data.")
    master_key: SecretStr | None = Field(
        None, description="The master key, or its file; absent: `master.key` among the keys."
    )
    host: str = Field("127.0.0.1", description="The address to listen on.")
    port: int = Field(8000, ge=0, le=65_535, description="The port to listen on; 0 takes a free one.")
    workers: Annotated[int, Field(ge=1, le=64)] = Field(
        1, description="How many processes accept on the port, over the same database."
    )
    allow_remote: bool = Field(False, description="Listen beyond loopback although nobody is authenticated.")
    identity_header: HeaderName | None = Field(
        None, description="The header in which a proxy in front of us says who asks; absent: all are `local`."
    )
    scopes_header: HeaderName | None = Field(
        None, description="The header with the scopes (chat operate audit) of who asks; absent: chat."
    )
    model: str = Field("demo", description="The model of agents that name none: demo, openai:…, anthropic:…")
    model_base_url: str | None = Field(
        None, description="An OpenAI-compatible server to use for openai:… models."
    )
    model_api_key: SecretStr | None = Field(None, description="The key for openai:… models.")
    model_timeout_s: Seconds = Field(120.0, description="The longest silence of a model.")
    demo_delay_s: float = Field(0.02, ge=0, le=10, description="The demo model's pause between two words.")
    agents: Path | None = Field(None, description="The TOML file with the agents and the policy.")
    lease_s: Annotated[float, Field(ge=1, le=86_400)] = Field(
        15.0, description="How long a turn of a server that died keeps its conversation."
    )
    grace_s: float = Field(10.0, ge=0, le=3600, description="How long turns may finish at shutdown.")
    busy_wait_s: float = Field(5.0, ge=0, le=300, description="How long results wait for a running turn.")
    read_wait_s: float = Field(5.0, ge=0, le=300, description="How long reads wait for a position.")
    max_switches: Count = Field(50, description="How often a conversation may switch agents.")
    max_universal_switches: Count = Field(100, description="The same while the universal agent is on.")
    max_model_calls: Count = Field(25, description="How many model calls one turn may make.")
    max_message_bytes: Bytes = Field(1024 * 1024, description="The largest message, result or argument set.")
    max_answer_bytes: Bytes = Field(16 * 1024 * 1024, description="The largest answer of a model.")
    max_turn_s: Seconds = Field(1800.0, description="How long a turn may take.")
    view_tokens: Annotated[int, Field(ge=100, le=10_000_000)] = Field(
        24_000, description="How many tokens of history a model gets to see."
    )
    pool_size: Annotated[int, Field(ge=1, le=1000)] = Field(
        10, description="Database connections of a process for turns, and as many again for reads."
    )
    projections: bool = Field(
        True, description="Whether this process lets the read models follow the log, where no other does."
    )
    seal: bool = Field(True, description="Whether this process seals the log, where no other does.")
    seal_s: Seconds = Field(1.0, description="The shortest time between two checkpoints.")
    seal_origin: str = Field(
        "minutebook", pattern=r"^[^\s+]+$", description="The name of this log in its checkpoints."
    )
    signing_key: SecretStr | None = Field(
        None, description="The key of checkpoints, or its file; absent: `signing.key` among the keys."
    )
    scrub_delay_s: float = Field(
        60.0,
        ge=0,
        le=86_400,
        description="How long after an erasure the files that held it are written anew.",
    )
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="What is logged.")

    @field_validator("model_base_url")
    @classmethod
    def _an_address_of_http(cls, given: str | None) -> str | None:
        if given:
            HttpUrl(given)  # raises what is said; the address itself stays as it was written
        return given

    @field_validator("database_url", "model_api_key")
    @classmethod
    def _one_line_of_text(cls, given: SecretStr | None) -> SecretStr | None:
        if given and not given.get_secret_value().isprintable():
            raise ValueError("It holds a line end or bytes that are no text")
        return given

    @model_validator(mode="after")
    def _loopback_unless_allowed(self) -> "Settings":
        if not self.allow_remote and not self.identity_header and not is_loopback(self.host):
            raise ValueError(
                f"{PREFIX}HOST {self.host} is reachable from other machines, but nobody is authenticated; "
                f"set {PREFIX}IDENTITY_HEADER, or {PREFIX}ALLOW_REMOTE=true if you mean it"
            )
        return self

    @model_validator(mode="after")
    def _scopes_of_somebody(self) -> "Settings":
        if self.scopes_header and not self.identity_header:
            raise ValueError(
                f"{PREFIX}SCOPES_HEADER says what somebody may do, and nothing says who asks; "
                f"set {PREFIX}IDENTITY_HEADER, too"
            )
        return self

    @property
    def key_folder(self) -> Path:
        """The folder in which the keys are kept that no setting gives."""
        return (self.keys or self.data / "keys").expanduser()


def read_settings(given: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings; `given` (the command line) goes before the environment. Raises `SettingsError`."""
    in_file = DotEnvSettingsSource(Settings).env_vars
    _refuse_unknown_variables([*map(str.upper, in_file), *os.environ])
    try:
        return Settings(**{name: value for name, value in (given or {}).items() if value is not None})
    except ValidationError as error:
        raise SettingsError(_sentence(error)) from None


def _sentence(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    said = first["msg"].removeprefix("Value error, ")
    where = "".join(str(part) for part in first["loc"]).upper()
    return f"{PREFIX}{where}: {said}." if where else f"{said}."


def _refuse_unknown_variables(names: Iterable[str]) -> None:
    known = [f"{PREFIX}{name.upper()}" for name in Settings.model_fields]
    for name in names:
        if name.startswith(PREFIX) and not name.startswith(f"{PREFIX}TEST_") and name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else "`minutebook doctor` lists them all."
            raise SettingsError(f"There is no setting {name}; {hint}")

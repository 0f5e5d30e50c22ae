"""Settings of every server, worker and command: defaults, then a YAML file, then environment variables, then flags.

A nested field is `UNDERSTUDY_STORE__ROOT` in the environment and `--set store.root=...` as a flag. ``--print-config`` prints the values in
force as YAML with secrets masked. A wrong name or value is an error that names it; nothing is ignored.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from services.kit.errors import InvalidInput
from services.kit.weights import default_weights_dir


def _is_loopback(host: str) -> bool:
    if host in ("localhost", ""):
        return host == "localhost"
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StoreSettings(_Section):
    """Where objects are: a folder of this machine, or an S3 bucket."""

    kind: Literal["folder", "s3"] = "folder"
    root: Path = Path(".understudy/objects")
    endpoint: str = ""
    bucket: str = "understudy"
    prefix: str = ""
    access_key: str = ""
    secret_key: SecretStr = SecretStr("")
    region: str = "us-east-1"
    secure: bool = True
    cache_dir: Path = Path(".understudy/cache")
    cache_bytes: int = Field(default=20 * 2**30, ge=0)


class ServerSettings(_Section):
    """The gRPC listener. Without TLS only loopback addresses are accepted."""

    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535, description="0 takes a free one")
    metrics_port: int = Field(default=0, ge=-1, le=65535, description="0 takes a free one, -1 serves none")
    token_file: Path = Path(".understudy/token")
    max_concurrent_calls: int = Field(default=64, ge=1)
    stop_grace_s: float = Field(default=5.0, ge=0)
    min_deadline_s: float = Field(default=0.05, ge=0, description="calls with less time left are refused")
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None

    @model_validator(mode="after")
    def _refuse_open_doors(self) -> ServerSettings:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together: set both or neither")
        if self.tls_certificate is None and not _is_loopback(self.host):
            raise ValueError(
                f"host {self.host!r} is not a loopback address: set tls_certificate and tls_key, or listen on 127.0.0.1"
            )
        return self


class ExecutionSettings(_Section):
    """How chunks are run."""

    kind: Literal["inline", "ray", "ray-cluster"] = "ray"
    address: str = Field(default="", description="ray-cluster: ray://... or host:port of the head")
    job_address: str = Field(default="", description="ray-cluster: http://head:8265, where jobs are submitted")
    workers: int = Field(
        default=0, ge=0, description="most workers of one stage; 0 for as many as there are CPUs or GPUs"
    )
    device: str = Field(default="auto", description="auto, cpu, cuda")
    gpu_share: float = Field(
        default=0, ge=0, le=1, description="part of a GPU that one worker takes; 0 for what its stage asks for"
    )
    video_decoder: Literal["cpu", "cuda"] = Field(default="cpu", description="what decodes videos; cuda is NVDEC")
    attempts: int = Field(default=3, ge=1, description="how often a chunk may be tried before the operation fails")
    parallel_operations: int = Field(default=3, ge=1)
    chunk_frames: int = Field(default=48, ge=1, le=1024)


class Settings(BaseSettings):
    """Everything. ``load_settings`` builds one."""

    model_config = SettingsConfigDict(env_prefix="UNDERSTUDY_", env_nested_delimiter="__", extra="forbid", frozen=True)

    store: StoreSettings = StoreSettings()
    server: ServerSettings = ServerSettings()
    execution: ExecutionSettings = ExecutionSettings()
    weights_dir: Path = Field(default_factory=default_weights_dir)
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        assert isinstance(init_settings, InitSettingsSource)
        file_values = init_settings.init_kwargs.pop("_file_values", {})
        return init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=file_values)


def load_settings(file: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Settings from defaults < ``file`` (YAML) < environment < ``overrides`` (nested dict or dotted names).

    Raises InvalidInput that names the first wrong field.
    """
    file_values: dict[str, Any] = {}
    if file is not None:
        if not file.is_file():
            raise InvalidInput(f"there is no settings file {file}")
        try:
            loaded = yaml.safe_load(file.read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InvalidInput(f"{file} is not YAML: {error}") from error
        if loaded is not None and not isinstance(loaded, dict):
            raise InvalidInput(f"{file} must hold a mapping of settings")
        file_values = loaded or {}
    _refuse_unknown_environment()
    try:
        return Settings(_file_values=file_values, **_nested(overrides or {}))  # type: ignore[call-arg]
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"] if part != "_file_values")
        raise InvalidInput(f"setting {field or '(whole)'}: {first['msg']}", fields={field: first["msg"]}) from error


def printable(settings: Settings) -> str:
    """The settings in force as YAML, secrets masked."""
    return str(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False))


def transportable(settings: Settings) -> dict[str, Any]:
    """The settings as JSON-able values *with* secrets, for worker processes of this deployment only; never log it."""
    values = settings.model_dump(mode="json")
    values["store"]["secret_key"] = settings.store.secret_key.get_secret_value()
    return values


def _refuse_unknown_environment() -> None:
    # Pydantic finds wrong names inside a section it knows, not a wrong section. Names without "__" are left alone: other programs'
    # and Kubernetes' own (UNDERSTUDY_FRAMES_SERVICE_HOST) look so.
    for name in sorted(os.environ):
        section, separator, _ = name.removeprefix("UNDERSTUDY_").partition("__")
        if name.startswith("UNDERSTUDY_") and separator and section.lower() not in Settings.model_fields:
            raise InvalidInput(
                f"the environment variable {name} is no setting: there is no section {section.lower()!r}"
            )


def _nested(overrides: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in overrides.items():
        *sections, leaf = name.split(".")
        target = values
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise InvalidInput(
                    f"setting {name}: {section} is given as one value as well", fields={name: "given twice"}
                )
        target[leaf] = {**value} if isinstance(value, Mapping) else value
    return values

"""Settings from the environment (HANSA_…) and nothing else: the one module that reads it."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from hansa.errors import ConfigError, InputError

__all__ = [
    "GivenSettings",
    "Settings",
    "environment_for_packages",
    "environment_for_user_code",
    "environment_for_workers",
    "launched_by_mpi",
    "quiet_grpc",
    "quiet_ray",
    "ray_address",
    "traces_wanted",
]

_PREFIX = "HANSA_"
_USUAL = frozenset(
    {"PATH", "LANG", "LANGUAGE", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONPATH", "SYSTEMROOT", "PATHEXT"}
)
_HEAP = {"MALLOC_MMAP_THRESHOLD_": str(1 << 25), "MALLOC_TRIM_THRESHOLD_": str(1 << 28)}
"""For glibc: memory that a worker asks for in each step, of a model's size, is used again, and not fetched page by page
from the system. Whoever has set it otherwise has it so."""
_USUAL_PREFIXES = ("LC_", "CUDA_", "NVIDIA_", "ROCR_", "HIP_", "OMP_", "MKL_", "OPENBLAS_", "NUMEXPR_")
"""Where programs and libraries are, in which language they speak, and which processors they may use; nothing secret."""

_MPI_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
"""How many processes a launcher has started, in the words of each."""


def _environment() -> dict[str, str]:
    return {name.upper(): value for name, value in os.environ.items()}  # noqa: TID251 - here


def _without_brackets(host: str) -> str:
    """Addresses of IPv6 are written with and without."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def _is_secret(field: FieldInfo) -> bool:
    return SecretStr in (field.annotation, *get_args(field.annotation))


def _file_of(secret: str) -> str:
    """The path of the file that a secret is in; empty: none is named."""
    return _environment().get(f"{_PREFIX}{secret}_FILE".upper(), "")


class _Files(PydanticBaseSettingsSource):
    """A secret's file, in the place of the secret: HANSA_TOKEN_FILE names a file with what HANSA_TOKEN would hold."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        path = _file_of(field_name) if _is_secret(field) else ""
        if not path:
            return None, field_name, False
        name = f"{_PREFIX}{field_name}".upper()
        if _environment().get(name):
            raise InputError(f"{name} and {name}_FILE are both set: set one of them")
        try:
            return Path(path).read_text(encoding="utf-8").strip(), field_name, False
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the file {path} that {name}_FILE names cannot be read: {error}") from error

    def __call__(self) -> dict[str, Any]:
        found = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in found.items() if value is not None}


class Settings(BaseSettings):
    """Each field is the environment variable HANSA_ + its name in capitals; a command-line option overrides it.

    A secret may be in a file: HANSA_… + _FILE names it. A variable that is empty is as one that is not set.
    """

    model_config = SettingsConfigDict(env_prefix=_PREFIX, env_ignore_empty=True, extra="ignore")

    if not TYPE_CHECKING:  # type checkers see the fields as parameters

        def __init__(self, **given: Any) -> None:
            """Read what is not given from the environment; raises `ConfigError`, which names the variable."""
            try:
                super().__init__(**given)
            except ValidationError as error:
                raise ConfigError("; ".join(map(self._refusal, error.errors()))) from None
            except SettingsError as error:
                field = next((name for name in type(self).model_fields if f'"{name}"' in str(error)), "")
                raise ConfigError(f"{_PREFIX}{field}".upper() + " cannot be read: it must be JSON") from None

    @classmethod
    def _refusal(cls, error: Mapping[str, Any]) -> str:
        """What is wrong with one variable; a secret is not repeated."""
        field = str(error["loc"][0])
        shown = "" if _is_secret(cls.model_fields[field]) else f" = {str(error['input'])!r}"
        wanted = str(error["msg"]).removeprefix("Value error, ").replace("Input should be", "it must be", 1)
        return f"{_PREFIX}{field}".upper() + f"{shown} cannot be used: {wanted}"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as the base class has it
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the same
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What was given, then the environment, then the files that it names."""
        return init_settings, env_settings, _Files(settings_cls)

    url: str = Field(
        default="https://127.0.0.1:8470", description="REST address of the controller, for CLI and Python client."
    )
    token: SecretStr | None = Field(
        default=None, description="Token of the person or node; else the one that `hansa up` saved."
    )
    project: str = Field(default="default", description="Project that commands act in.")
    data: Path = Field(default=Path("hansa-data"), description="Folder of a server: database, objects, keys.")
    store: SecretStr | None = Field(
        default=None, description="Metadata store as a URL; empty: SQLite in the data folder."
    )
    objects: SecretStr | None = Field(
        default=None, description="Object store as a URL or a path; empty: a folder in the data folder."
    )
    host: Annotated[str, AfterValidator(_without_brackets)] = Field(
        default="127.0.0.1", description="Address that a server listens on."
    )
    port: int = Field(default=8470, ge=0, le=65535, description="Port of the REST API; 0: any free one.")
    grpc_port: int = Field(default=8471, ge=0, le=65535, description="Port for clients and combiners; 0: any free one.")
    advertise: str = Field(
        default="", description="host:port at which nodes reach a server; empty: host and port as bound."
    )
    tls: Literal["on", "proxy", "off"] = Field(
        default="on",
        description="Whether a server's ports speak TLS; proxy: something in front of them does; off: nothing does, "
        "and tokens can be read on the way.",
    )
    tls_cert: Path | None = Field(
        default=None,
        description="Certificate chain (PEM) in the place of those that the network signs itself; read again when it "
        "changes. Of a client: what it shows to servers that ask for one.",
    )
    tls_key: Path | None = Field(default=None, description="Key (PEM) of HANSA_TLS_CERT.")
    tls_client_ca: Path | None = Field(
        default=None,
        description="Authorities (PEM) of which a server's callers must show a certificate; empty: they need none.",
    )
    tls_names: str = Field(
        default="", description="Names and addresses, by commas, that a server's certificate is for, beside its own."
    )
    ca: str = Field(
        default="",
        description="Authority that a server's certificate must be of: sha256:… as `hansa up` prints it, or a file "
        "(PEM); empty: those that the world believes.",
    )
    proxies: str = Field(
        default="127.0.0.1,::1",
        description="Addresses and networks, by commas, of the proxies that HANSA_TLS=proxy is about: X-Forwarded-For "
        "of their requests, and of no others, says where these come from.",
    )
    oidc_issuer: str = Field(default="", description="OpenID provider that people may log in by, as its https:// URL.")
    oidc_client_id: str = Field(default="", description="What the OpenID provider calls this server.")
    oidc_client_secret: SecretStr | None = Field(
        default=None, description="Secret of HANSA_OIDC_CLIENT_ID; empty: a public client, which PKCE protects."
    )
    oidc_ca: Path | None = Field(
        default=None,
        description="Authorities (PEM) of the OpenID provider's certificate; empty: those that the world believes.",
    )
    oidc_redirect: str = Field(
        default="",
        description="Address of the Studio, https://HOST:PORT/ui/, to which the OpenID provider sends browsers back; "
        "empty: the Studio offers no login by OpenID.",
    )
    oidc_scope: str = Field(
        default="openid profile email", description="What is asked of the OpenID provider, by spaces."
    )
    oidc_create: bool = Field(
        default=False,
        description="Whether all whom the OpenID provider lets in get an account; else administrators link them.",
    )
    oidc_name_claim: str = Field(
        default="preferred_username", description="Claim of the ID token by which new accounts are called."
    )
    oidc_groups_claim: str = Field(default="groups", description="Claim of the ID token that lists groups.")
    oidc_groups: dict[str, str] = Field(
        default={},
        description='What groups make people, as JSON: {"GROUP": "PROJECT:ROLE", "GROUP": "admin"}; several by commas.',
    )
    quota_sessions: int | None = Field(
        default=None, ge=0, description="Sessions of a project at once, where it has no quota of its own; empty: any."
    )
    quota_storage: int | None = Field(
        default=None,
        ge=0,
        description="Bytes that a project may hold on to, where it has no quota of its own; empty: any.",
    )
    quota_clients: int | None = Field(
        default=None, ge=1, description="Clients of a project, where it has no quota of its own; empty: any."
    )
    max_connections: int = Field(
        default=4096, ge=1, description="Connections to the REST API at once; a quarter of them from one address."
    )
    patience: float = Field(
        default=30.0,
        gt=0,
        description="Seconds for which a caller of the REST API may let a request or an answer stand still.",
    )
    request_rate: float = Field(
        default=200.0,
        gt=0,
        description="Requests of one caller of the REST API in a second; ten times as many after a pause.",
    )
    metrics_token: SecretStr | None = Field(
        default=None,
        min_length=32,
        description="Token with which a scraper reads `/metrics`, and nothing else; 32 characters or more. Empty: site "
        "administrators alone read it.",
    )
    max_upload: int = Field(default=16 << 30, gt=0, description="Bytes that a model uploaded over REST may have.")
    fedn: bool = Field(default=False, description="Whether a server serves FEDn's clients and scripts too.")
    fedn_port: int = Field(
        default=8092,
        ge=0,
        le=65535,
        description="Port of the REST API for FEDn's clients and scripts; 0: any free one.",
    )
    fedn_grpc_port: int = Field(
        default=12080, ge=0, le=65535, description="Port of the gRPC services for FEDn's clients; 0: any free one."
    )
    fedn_advertise: str = Field(
        default="",
        description="host:port at which FEDn's clients reach the gRPC services; empty: host and port as bound. Most of "
        "them speak TLS at port 443 and nowhere else.",
    )
    fedn_tls: Literal["on", "proxy", "off"] = Field(
        default="on",
        description="Whether the ports for FEDn's clients speak TLS; proxy: something in front of them does.",
    )
    fedn_weak: Literal["off", "calls", "joining"] = Field(
        default="off",
        description="What FEDn's clients may do without a token; calls: gRPC calls of who joined with one, all that "
        "they can send without TLS; joining: everything that a client may.",
    )
    balancer: str = Field(
        default="least-loaded", description="How clients are spread: a name of the group hansa.balancers."
    )
    slots: int = Field(
        default=2, ge=1, le=64, description="Updates that an aggregation server holds in memory at once."
    )
    silence: float = Field(
        default=15.0, gt=0, description="Seconds without a heartbeat after which a node counts as lost."
    )
    labels: str = Field(
        default="", description="Labels of a node, KEY=VALUE by commas, beside those of --label and of its site's file."
    )
    function_seconds: float = Field(
        default=60.0, gt=0, description="Seconds that one call of an app's select, configure or aggregate may take."
    )
    function_memory: int = Field(
        default=8 << 30,
        gt=0,
        description="Bytes of address space that one such call may have, and that code beside a server may write.",
    )
    telemetry_days: float = Field(
        default=7.0, gt=0, le=3650, description="Days for which a server keeps what machines of clients tell."
    )
    keep: str = Field(
        default="all",
        description="Which rounds of a session keep their models, where it does not say it: a policy, or all.",
    )
    datasets: Path | None = Field(
        default=None, description="Folder of data sets, in which `hansa bench run` finds those of its recipes."
    )
    work: Path | None = Field(
        default=None, description="Folder for a node's key, models and updates; empty: one of each join token."
    )
    key_days: float = Field(
        default=90.0, ge=0, description="Days after which a node makes itself a new key and hands over to it; 0: never."
    )
    credentials: Path = Field(
        default=Path("~/.config/hansa/credentials.json"), description="Where `hansa up` saves the operator's token."
    )
    confinement: Literal["required", "where-possible", "off"] = Field(
        default="where-possible",
        description="Whether code that sessions bring runs only where all of its confinement can be enforced.",
    )
    central_data: Path | None = Field(
        default=None,
        description="Folder, outside `HANSA_DATA`, that code beside a server may read, as `settings['data']`: labels "
        "of split learning. Whoever may start sessions can read it.",
    )
    package_key: Path = Field(
        default=Path("~/.config/hansa/package-key.pem"),
        description="Private key, made by `hansa package key`; where the file is there, it signs what is packed here.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe log line shown."
    )

    def secret_files(self) -> tuple[Path, ...]:
        """Files that hold what these settings keep secret, in the place of a variable or as a key."""
        named = (_file_of(name) for name, field in type(self).model_fields.items() if _is_secret(field))
        given = (*named, self.tls_key)
        return tuple(Path(path) for path in given if path)


class GivenSettings(Settings):
    """Settings of a server within another command: what is given, else the defaults; the environment has no say."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - this and what follows: as the base class has it
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What was given."""
        return (init_settings,)


def quiet_grpc() -> None:
    """Have gRPC's own log lines left out, which say less than hansa's errors; before gRPC is loaded."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # noqa: TID251 - here


def quiet_ray() -> None:
    """Have Ray tell nobody of how it is used, unless somebody wants that; before it starts a cluster."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # noqa: TID251 - here


def ray_address() -> str:
    """The cluster that Ray's own variable names; empty: none."""
    return _environment().get("RAY_ADDRESS", "")


def traces_wanted() -> bool:
    """Whether OpenTelemetry's own variables name where traces go; raises `ConfigError` for a protocol not spoken."""
    given = _environment()
    off = given.get("OTEL_SDK_DISABLED", "").lower() == "true" or given.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp"
    if off or not (given.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or given.get("OTEL_EXPORTER_OTLP_ENDPOINT")):
        return False
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if protocol := given.get(name):
            if protocol != "http/protobuf":
                raise ConfigError(
                    f"{name} = {protocol!r} is not spoken: set it to http/protobuf, and the endpoint to the port "
                    "that the collector has for it, usually 4318"
                )
            break
    return True


def environment_for_packages(names: Collection[str] = ()) -> dict[str, str]:
    """What code that a session brought gets of the environment: what programs need to run, and these names."""
    return _HEAP | {
        name: value
        for name, value in environment_for_user_code().items()
        if name in names or name in _HEAP or name.upper() in _USUAL or name.upper().startswith(_USUAL_PREFIXES)
    }


def environment_for_workers() -> dict[str, str]:
    """That of a worker process which runs its owner's code, in a simulation or at a client."""
    return _HEAP | environment_for_user_code()


def launched_by_mpi() -> bool:
    """Whether an MPI launcher (Open MPI, MPICH, Intel MPI, MVAPICH) has started this process, as one of several."""
    return any(int(os.environ.get(name) or 1) > 1 for name in _MPI_SIZES)  # noqa: TID251 - here


def environment_for_user_code() -> dict[str, str]:
    """The environment without hansa's own settings, in any case, as they are read: a worker process needs no token."""
    return {name: value for name, value in os.environ.items() if not name.upper().startswith(_PREFIX)}  # noqa: TID251 - here

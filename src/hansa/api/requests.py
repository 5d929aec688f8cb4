"""What the API takes, as it is documented and checked: unknown fields and other types are refused."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, SecretStr, model_validator

from hansa.errors import ConfigError
from hansa.messages import RunSpec
from hansa.store.documents import spec_from_json
from hansa.store.records import ProjectRole

__all__ = [
    "ChangedPassword",
    "DeviceAnswer",
    "Keep",
    "Login",
    "LoginCode",
    "NewApiToken",
    "NewInitialModel",
    "NewLabels",
    "NewMember",
    "NewPassword",
    "NewPrediction",
    "NewProject",
    "NewQuota",
    "NewSession",
    "NewSimulation",
    "NewToken",
    "NewUser",
    "OpenIdAnswer",
    "OpenIdLogin",
    "Prune",
    "Resume",
    "Spec",
    "Strict",
    "Subject",
    "spec_of",
]

Password = Annotated[SecretStr, Field(max_length=1000)]
SubjectText = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[!-~]+$", examples=["248289761001"])]

Label = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00=]+$")]

DIGEST = "3f0c7a1e9d52b8846bd1e0a5c97f24e3a8d6410b7c5f92e8d3a1b0496e7c8d25"
"""An example."""


class Strict(BaseModel):
    """A request: a field that it does not have is an error that lists those that it has."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _only_known(cls, given: Any) -> Any:
        unknown = [name for name in given if name not in cls.model_fields] if isinstance(given, dict) else []
        if unknown:
            raise ValueError(f"there is no {unknown[0]!r}; there is: {', '.join(cls.model_fields)}")
        return given


class Rules(Strict):
    """Who takes part in a round, and when it closes."""

    model_config = ConfigDict(strict=True)
    selection: str = "all"
    """A selection policy: all, count, fraction, cyclic, or a plug-in's."""
    count: int | None = Field(default=None, lt=2**63)
    """Clients in the cohort, for the policy `count`."""
    fraction: float | None = None
    """0 < fraction ≤ 1 of the connected clients, for the policy `fraction`."""
    min_clients: int = Field(default=1, lt=2**63)
    """Connected clients that a round waits for before it opens."""
    quorum: int = Field(default=1, lt=2**63)
    """Updates without which a round fails."""
    enough: int | None = Field(default=None, lt=2**63)
    """Accepted updates that close the round at once; null: it waits for all who are invited."""
    deadline: float = Field(default=3600.0, le=1e9)
    """Seconds after the round is due; it closes with the quorum, or fails."""
    lease: float = Field(default=60.0, le=1e9)
    """Seconds without any progress after which a client's place is offered to another."""
    replace_failed: bool = True
    """Whether a client that fails is replaced by one that was not invited."""
    only: list[str] = Field(default=[], max_length=10_000, examples=[[]])
    """Names of the clients that may be invited; none: any."""
    labels: list[str] = Field(default=[], max_length=100, examples=[["region=eu"]])
    """Labels that an invited client has: of one key any of its values, of several keys all."""


class Evaluation(Strict):
    """What is evaluated after a round."""

    model_config = ConfigDict(strict=True)
    every: int = Field(default=1, lt=2**63)
    """Evaluate after every n-th round and after the last; 0: never."""
    fraction: float = 1.0
    """0 < fraction ≤ 1 of the connected clients evaluate."""
    clients: bool = True
    """Clients evaluate with `@app.evaluate`, or with the app's trainer."""
    central: bool = True
    """Also run `@app.central_evaluate` beside the server."""


class Transform(Strict):
    """One step between local training and what leaves the client."""

    name: str = Field(examples=["clip"])
    """A name of the entry-point group hansa.transforms."""
    options: dict[str, JsonValue] = Field(default={}, examples=[{"norm": 1.0}])
    """For example {"norm": 1.0} for clip."""


class Spec(Strict):
    """Everything that decides the result of a run."""

    model_config = ConfigDict(
        strict=True, json_schema_extra={"examples": [{"name": "digits", "algorithm": "fedavg", "rounds": 20}]}
    )
    name: str = "run"
    """1 to 100 of A-Z a-z 0-9 . _ -"""
    project: str | None = None
    """The project of the path, or nothing."""
    algorithm: str = "fedavg"
    """A name of the entry-point group hansa.algorithms."""
    algorithm_options: dict[str, JsonValue] = {}
    """For example {"learning_rate": 0.01} for fedadam."""
    aggregator: str = "mean"
    """A name of the entry-point group hansa.aggregators."""
    aggregator_options: dict[str, JsonValue] = {}
    """For example {"uniform": true} for mean: every client counts the same."""
    rounds: int = 10
    """1 to 1,000,000."""
    seed: int = 0
    """0 to 2^63 − 1."""
    rules: Rules = Rules()
    evaluation: Evaluation = Evaluation()
    max_weight: int = Field(default=2**24, ge=1, lt=2**63)
    """The most examples that one round may sum; a power of two."""
    range_bits: int = Field(default=6, ge=0, le=1024)
    """A client may change a value by up to 2^range_bits times the tensor's scale."""
    config: dict[str, JsonValue] = {}
    """Handed to user code as `task.config`."""
    transforms: list[Transform] = Field(default=[], max_length=16)
    """What each update goes through before it leaves the client, in this order."""
    parties: list[str] = Field(default=[], max_length=1000, examples=[[]])
    """Clients that run the app's program in place of rounds, its worker 0 first; `central`: beside the server."""

    functions: list[str] = Field(default=[], max_length=3, examples=[[]])
    """Functions of the package that are called beside the server in each round: select, configure, aggregate."""


class NewSession(Strict):
    """A session to create."""

    spec: Spec
    seed_model: str | None = Field(default=None, examples=[DIGEST])
    """Digest of the model that it starts from; upload it first. Only a program of parties has none."""
    package: str | None = Field(default=None, examples=[DIGEST])
    """Digest of the user code that travels to the clients; null: they bring their own."""
    keep: str | None = Field(default=None, max_length=1000, examples=["last 5, best accuracy max"])
    """Which rounds keep their models: `all`, or `last N`, `best METRIC max`, `best METRIC min` and a comma between
    several; `best central METRIC …` and `best train METRIC …` name where it is measured. With `, aggregates` at the end
    they keep what they have added to the model too, so that it can be computed anew. null: the server's default."""
    model_prefix: str | None = Field(default=None, max_length=100, examples=["heart"])
    """What its models are called, before "-" and their round's number; null: they have no names."""


class NewPrediction(Strict):
    """A question to clients."""

    name: str = Field(default="prediction", examples=["who-has-it"])
    """1 to 100 of A-Z a-z 0-9 . _ -"""
    model: str = Field(examples=[DIGEST])
    """Digest of the model that predicts."""
    package: str | None = Field(default=None, examples=[DIGEST])
    """Digest of the user code that travels to the clients; null: they bring their own."""
    rules: Rules = Rules()
    """Who is asked, and until when."""
    config: dict[str, JsonValue] = {}
    """Handed to user code as `task.config`."""
    seed: int = Field(default=0, ge=0, lt=2**63)


class Resume(Strict):
    """How to go on."""

    rounds: int = Field(default=0, ge=0, le=1_000_000, examples=[10])
    """Rounds beyond those that it was to commit; a session that has finished needs some."""


class NewInitialModel(Strict):
    """Whose initial model to draw."""

    package: str = Field(examples=[DIGEST])
    """Digest of the app's package."""
    spec: Spec
    """The run that it is for: the model is drawn with its seed."""


class NewSimulation(NewInitialModel):
    """What to simulate on the server."""

    clients: int = Field(default=10, ge=1, le=1000)
    """Virtual clients."""


class Keep(Strict):
    """Another policy for a session."""

    keep: str | None = Field(max_length=1000, examples=["last 5, best accuracy max"])
    """As in a new session; null: the server's default."""


class Prune(Strict):
    """What to prune."""

    dry_run: bool = False
    """Say what would be pruned, and remove nothing."""
    grace: float = Field(default=86_400.0, ge=0, le=1e9)
    """Seconds for which an object that no row names is left alone."""


class NewToken(Strict):
    """A node's token to issue."""

    name: str = Field(examples=["hospital-north"])
    """The identity, unique in the project."""
    role: Literal["client", "combiner"]
    expires_in: float | None = Field(default=None, gt=0, le=1e9, examples=[86400])
    """Seconds in which the node has to join; null: 7 days."""


class NewLabels(Strict):
    """Labels that operators give a client."""

    labels: dict[Label, Label | None] = Field(max_length=64, examples=[{"region": "eu", "tier": None}])
    """Key → value; null takes the operators' own away. Keys that are left out stay as they are."""


class NewProject(Strict):
    """A project to create."""

    name: str = Field(examples=["cardiology"])
    """1 to 100 of A-Z a-z 0-9 . _ -"""


class NewQuota(Strict):
    """How much a project may use. A field that is left out stays as it is; null: the server's default."""

    sessions: int | None = Field(default=None, ge=0, lt=2**63, examples=[2])
    """Sessions that may run at once."""
    storage: int | None = Field(default=None, ge=0, lt=2**63, examples=[10_000_000_000])
    """Bytes of models, states of algorithms and packages."""
    clients: int | None = Field(default=None, ge=0, lt=2**63, examples=[50])
    """Clients that may join, or hold a join token."""


class NewApiToken(Strict):
    """A token that acts for the caller in the project."""

    name: str = Field(examples=["nightly"])
    """What it is called: 1 to 100 of A-Z a-z 0-9 . _ -"""
    role: ProjectRole
    """The most that it may do; nothing that the caller may not."""
    expires_in: float = Field(default=30 * 86_400.0, gt=0, le=366 * 86_400.0, examples=[86400])
    """Seconds; a year at most."""


class NewMember(Strict):
    """What a person shall be in a project."""

    role: ProjectRole


class NewUser(Strict):
    """A person to let in."""

    name: str = Field(examples=["ada"])
    """1 to 100 of A-Z a-z 0-9 . _ -"""
    admin: bool = False
    """Whether they are a site administrator, who may do everything in every project."""
    password: Password | None = None
    """10 characters or more; null: they cannot log in until they are given one."""
    subject: SubjectText | None = None
    """Whom the OpenID provider knows them as; null: they do not log in by it."""


class NewPassword(Strict):
    """A user's password."""

    password: Password
    """10 characters or more."""


class ChangedPassword(NewPassword):
    """The caller's own password."""

    current: Password
    """The one until now."""


class Login(Strict):
    """Who somebody is, and how they prove it."""

    name: str = Field(max_length=1000, examples=["ada"])
    password: Password
    cookie: bool = False
    """Whether a browser keeps the token, in a cookie that no script can read; then it is not in the answer."""


class LoginCode(Strict):
    """A code that somebody who is logged in has made."""

    code: SecretStr = Field(max_length=200)


class Subject(Strict):
    """Whom the OpenID provider of this server means."""

    subject: SubjectText
    """Its `sub`; what a refused login names."""


class OpenIdLogin(Strict):
    """A login by the OpenID provider to begin in a browser."""

    redirect: str = Field(max_length=200, examples=["http://127.0.0.1:49152/callback"])
    """Where the provider sends the browser back to: the machine of the person, or the Studio, and nowhere else."""
    challenge: str = Field(max_length=43, examples=["E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"])
    """Of PKCE (RFC 7636), by S256."""


class OpenIdAnswer(Strict):
    """What the provider sent to the redirect."""

    state: str = Field(max_length=200)
    """Of the login that was begun."""
    code: SecretStr = Field(max_length=4000)
    verifier: SecretStr = Field(min_length=43, max_length=128)
    """What the challenge was made from."""
    iss: str | None = Field(default=None, max_length=1000)
    """The provider, where it named itself (RFC 9207)."""
    cookie: bool = False
    """Whether a browser keeps the token, in a cookie that no script can read; then it is not in the answer."""


class DeviceAnswer(Strict):
    """A login on another device to ask about."""

    handle: SecretStr = Field(max_length=200)
    """Of the login that was begun."""


def spec_of(given: Spec, project: str) -> RunSpec:
    """The run that a request describes; raises `ConfigError` for a value that only a newer hansa knows."""
    if given.project not in {None, project}:
        raise ConfigError(f"spec.project is {given.project!r}, but the path is that of project {project!r}")
    try:
        return spec_from_json(given.model_dump(exclude_unset=True) | {"project": project})
    except ValueError as error:
        raise ConfigError(f"spec holds a value that cannot be read: {error}") from error

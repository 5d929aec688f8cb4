"""What a data owner allows: a `site.toml`, which the client enforces, whatever a session asks for.

A key that is not known is an error: a rule that was misspelt must not be a rule that is not there.
"""

import difflib
import math
import tomllib
from collections.abc import Mapping
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BaseModel, ByteSize, ConfigDict, Field, StringConstraints, ValidationError

from hansa.errors import ConfigError
from hansa.messages import RunSpec
from hansa.network.client.limits import Limits
from hansa.run import resolve_transforms

__all__ = ["ANYTHING", "SitePolicy", "read_policy"]

Day: TypeAlias = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
Digest: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Signer: TypeAlias = Annotated[str, StringConstraints(pattern=r"^ed25519:[0-9a-f]{64}$")]
Amount: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Bytes: TypeAlias = Annotated[ByteSize, Field(gt=0)]
Count: TypeAlias = Annotated[int, Field(gt=0)]

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CodeRules(_Table):
    """`[code]`: which code may run, and what it may see."""

    digests: tuple[Digest, ...] | None = None
    """Packages by digest (`hansa package inspect`). With neither these nor signers, any package may run."""
    signers: tuple[Signer, ...] | None = None
    """Public keys of those whose packages may run."""
    confinement: Literal["required", "where-possible", "off"] | None = None
    """As HANSA_CONFINEMENT, in whose place it is."""
    network: bool = False
    """Whether code may reach other machines."""
    readable: tuple[Path, ...] | None = None
    """What code may read beside the system's programs; else whatever this user may read and is not the client's own."""
    environment: tuple[str, ...] = ()
    """Names of the environment that code gets beside the usual ones."""


class Hours(_Table):
    """`[hours]`: when tasks are begun, in local time."""

    begin: time = Field(default=time(0), alias="from")
    until: time = time(0)
    """The same as `from`: all day. Earlier: on the next day."""
    days: tuple[Day, ...] = _DAYS
    """On which it begins."""

    def hold(self, now: datetime) -> bool:
        """Whether a task may begin now."""
        for day in (now.date(), now.date() - timedelta(days=1)):
            begin, end = datetime.combine(day, self.begin), datetime.combine(day, self.until)
            end += timedelta(days=1 if end <= begin else 0)
            if _DAYS[day.weekday()] in self.days and begin <= now < end:
                return True
        return False

    def __str__(self) -> str:
        """For example "mon tue from 20:00 until 06:00"."""
        return f"{' '.join(self.days)} from {self.begin:%H:%M} until {self.until:%H:%M}"


class Resources(_Table):
    """`[resources]`: what one task may use."""

    cpu: Amount | None = None
    """CPU seconds."""
    wall: Amount | None = None
    """Seconds."""
    memory: Bytes | None = None
    """Address space of each process, for example "8 GiB"."""
    disk: Bytes | None = None
    """What its own folder may hold."""
    file_size: Bytes | None = None
    """Of each file."""
    processes: Count | None = None
    open_files: Count | None = None


class Outbound(_Table):
    """`[outbound]`: what leaves the site beside updates."""

    metrics: tuple[str, ...] | None = None
    """Metrics by name; others are kept back. Absent: all leave."""
    prints: bool = True
    """Whether what code prints, and the words of its errors, are told to the session."""
    letters: bool = True
    """Whether code may send messages of its own to other parties, in sessions that run a program."""
    predictions: Bytes | None = None
    """The most bytes of one prediction of the client's data, for example "100 KiB"; absent: none leaves."""
    telemetry: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = None
    """Seconds between two reports of CPU, memory and disk of this machine; absent: none leaves."""

    def refusal_of_prediction(self, size: int) -> str:
        """Why a prediction of so many bytes does not leave; empty when it may."""
        if self.predictions is None:
            return "predictions of its data do not leave (outbound.predictions)"
        if size > self.predictions:
            return f"a prediction may have {self.predictions:,} bytes, and this one has {size:,} (outbound.predictions)"
        return ""


class Privacy(_Table):
    """`[privacy]`: the least protection of an update that may leave."""

    max_norm: Amount | None = None
    """Clipping: the largest L2 norm, of what leaves, or where noise is added of what it is added to."""
    min_noise: Amount | None = None
    """Noise multiplier: the scale over the largest norm, of noise that is added here."""

    def refusal(self, spec: RunSpec) -> str:
        """Why updates of this run may not leave; empty when they may."""
        if self.max_norm is None and self.min_noise is None:
            return ""
        try:
            pipeline = resolve_transforms(spec)
        except ConfigError as error:
            return f"what its transforms do is not known here: {error}"
        noise = next((each for each in pipeline.noises if each.local), None)
        bound = pipeline.bound if noise is None else pipeline.clips_to
        if self.max_norm is not None and bound.norm > self.max_norm:
            has = f"to {bound.norm:g}" if bound.norm < math.inf else "nothing"
            return f"updates must be clipped to a norm of {self.max_norm:g} or less; this session clips {has}"
        if self.min_noise is None or (noise is not None and not noise.seeded and noise.multiplier >= self.min_noise):
            return ""
        has = "none here" if noise is None else "what its seed tells" if noise.seeded else f"{noise.multiplier:g}"
        return f"updates must carry noise of at least {self.min_noise:g}; this session adds {has}"

    def shows_norm(self, spec: RunSpec) -> bool:
        """Whether an update of this run shows to what it was clipped: noise on it hides that, and a sketch of it."""
        pipeline = resolve_transforms(spec)
        return pipeline.keeps_structure and not any(noise.local for noise in pipeline.noises)

    def trusts_code(self, spec: RunSpec) -> bool:
        """Whether what is demanded cannot be seen on an update: noise is added beside the session's code."""
        demands = self.max_norm is not None or self.min_noise is not None
        return demands and (self.min_noise is not None or not self.shows_norm(spec))


class SitePolicy(_Table):
    """A `site.toml`."""

    projects: tuple[str, ...] | None = None
    """Projects whose sessions may run here; absent: any that the client's token is for."""
    approval: bool = False
    """Whether a person must approve each session, with `hansa client approve`."""
    labels: dict[str, str] = {}
    """What the client says of itself, by which sessions choose clients."""
    code: CodeRules = CodeRules()
    hours: Hours = Hours()
    resources: Resources = Resources()
    outbound: Outbound = Outbound()
    privacy: Privacy = Privacy()

    @property
    def limits(self) -> Limits:
        """Of each task."""
        return Limits(**self.resources.model_dump())

    def refusal_of_run(self, spec: RunSpec, now: datetime, *, predicts: bool = False) -> str:
        """Why nothing of this run is done now, whatever its code; empty when it may be.

        now: local time; predicts: whether it asks for predictions, and for no updates.
        """
        if self.projects is not None and spec.project not in self.projects:
            return f"sessions of the project {spec.project!r} do not run here, only of {_listed(self.projects)}"
        if not self.hours.hold(now):
            return f"tasks begin here on {self.hours} only, and it is {now:%a %H:%M}".lower()
        if predicts:
            return self.outbound.refusal_of_prediction(0)
        if spec.parties:
            return self._refusal_of_program()
        return self.privacy.refusal(spec)

    def _refusal_of_program(self) -> str:
        """Its messages are whatever its code makes them: nothing here can see that they are clipped, or noisy."""
        if not self.outbound.letters:
            return "code sends no letters to other parties here (outbound.letters)"
        if self.privacy != Privacy():
            return "updates are protected here (privacy), and what a program sends are none: it cannot be"
        return ""

    @property
    def names_code(self) -> bool:
        """Whether not any package may run."""
        return self.code.digests is not None or self.code.signers is not None

    def refusal_of_code(self, digest: str, signer: str | None, spec: RunSpec) -> str:
        """Why this package does not run; empty when it may. signer: whose signature holds."""
        allowed = digest in (self.code.digests or ()) or signer in (self.code.signers or ())
        if not allowed and not self.names_code and not self.approval and self.privacy.trusts_code(spec):
            return (
                "noise is added beside the session's code, and is as good as that code: name whose code may run under "
                "[code], or have a person approve each session"
            )
        if allowed or not self.names_code:
            return ""
        whose = f"signed by {signer}" if signer is not None else "signed by nobody"
        return f"the package {digest} ({whose}) is not among those that may run here, nor is its signer"


ANYTHING: Final = SitePolicy()
"""Where an owner has said nothing."""


def read_policy(file: Path) -> SitePolicy:
    """Read a `site.toml`. Raises `ConfigError` that names the key, and for an unknown one the nearest that is known."""
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"the site's policy {file} cannot be read as TOML: {error}") from error
    try:
        return SitePolicy.model_validate(table)
    except ValidationError as error:
        flaw = error.errors()[0]
        raise ConfigError(f"{file}: {_said(flaw)}") from error


def _said(flaw: Mapping[str, Any]) -> str:
    path = [str(part) for part in flaw["loc"]]
    where = ".".join(path)
    if flaw["type"] != "extra_forbidden":
        return f"{where} = {flaw['input']!r:.100}: {flaw['msg']}"
    known = _known(path[:-1])
    nearest = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.0)[0]
    return f"{where} means nothing; did you mean {nearest}? There are {', '.join(known)}"


def _known(path: list[str]) -> list[str]:
    """The keys of the table at this path."""
    table: type[BaseModel] = SitePolicy
    for name in path:
        found = table.model_fields[name].annotation
        table = found if isinstance(found, type) and issubclass(found, BaseModel) else table
    return [field.alias or name for name, field in table.model_fields.items()]


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "none"

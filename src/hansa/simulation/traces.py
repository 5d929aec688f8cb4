"""Devices that follow a trace: when each is there, how fast it computes, and how wide its links are.

A trace is a table, as CSV with a header line or as JSON lines with the same keys; a line is one window of one device:

| column             | what                                                                             |
|--------------------|----------------------------------------------------------------------------------|
| client             | the device; any text                                                             |
| start, end         | seconds since the beginning, 0 ≤ start < end: it is there from start until end   |
| seconds_per_sample | to train on one example, once; without it, or empty: 0                           |
| download, upload   | bytes a second; without it, or empty: as fast as can be                          |

A device that is not in a window is away; windows of a device do not overlap, and those that touch are one. The virtual
client client-k is the device of that name, and where there is none device number k modulo their number, in the order
in which the trace first names them. The trace begins anew when its last window has ended.

A task takes download bytes / download + passes · examples · seconds_per_sample + upload bytes / upload, with the
numbers of the window in which the client is invited. Its update is lost when the device leaves before.

Lai et al. 2022 (FedScale), arXiv:2105.11367; Yang et al. 2021 (FLASH), arXiv:2006.06983; availability by the hour:
Bonawitz et al. 2019, arXiv:1902.01046, section 9.
"""

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hansa.errors import ConfigError, InputError
from hansa.simulation.devices import Behaviour, Invitation, RandomFor

__all__ = ["Traces", "Window", "diurnal"]

_NUMBERS = ("start", "end", "seconds_per_sample", "download", "upload")
_COLUMNS = ("client", *_NUMBERS)
_HOUR, _DAY = 3600.0, 86400.0
_NAME = "client-"
_INT64_DIGITS = 19


@dataclass(frozen=True, slots=True)
class Window:
    """A time in which one device is there."""

    client: str
    start: float
    """Seconds since the beginning of the trace."""
    end: float
    """The same, above start."""
    seconds_per_sample: float = 0.0
    """To train on one example, once."""
    download: float = math.inf
    """Bytes a second, above 0."""
    upload: float = math.inf
    """The same."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if not self.client:
            raise InputError("a window names no client")
        if not (math.isfinite(self.end) and 0 <= self.start < self.end):
            raise InputError(f"{self.client}: {self.start:g} to {self.end:g} s is no window; expected 0 ≤ start < end")
        if not (0 <= self.seconds_per_sample < math.inf and self.download > 0 and self.upload > 0):
            raise InputError(
                f"{self.client}: seconds_per_sample is {self.seconds_per_sample:g}, download {self.download:g}, upload "
                f"{self.upload:g}; the first must be at least 0, the others above 0"
            )


class Traces:
    """`Devices` that are `ComingAndGoing`; see the module. It holds some 80 bytes for each window, and the names."""

    def __init__(self, windows: Iterable[Window], *, period: float | None = None, passes: float = 1.0) -> None:
        """What the windows say.

        Args:
            windows: in any order.
            period: after how many seconds the trace begins anew, at least the end of the last window, which it is by
                default; infinity: it does not, and who has left for good is never there again.
            passes: how often local training looks at each example, its epochs: a trainer's setting that a model of
                devices does not see.

        """
        listed = list(windows)
        if not listed:
            raise InputError("the trace has no windows; give at least one")
        if not (math.isfinite(passes) and passes >= 0):
            raise ConfigError(f"passes is {passes}; it must be a number, at least 0")
        devices: dict[str, int] = {}
        owner = np.array([devices.setdefault(window.client, len(devices)) for window in listed], np.int32)
        table = np.array([[getattr(window, name) for name in _NUMBERS] for window in listed], np.float64)
        order = np.lexsort((table[:, 0], owner))
        self._owner, self._table = owner[order], table[order]
        self._first = np.searchsorted(self._owner, np.arange(len(devices) + 1))
        self.devices = tuple(devices)
        """The names, in the order in which the trace first names them."""
        last = float(table[:, 1].max())
        self.period = last if period is None else period
        self.passes = passes
        if not self.period >= last:
            raise ConfigError(f"period is {self.period:g} s; the last window ends after {last:g} s: give at least that")
        self._check_overlaps()
        self._first_turn, self._turns = self._all_turns()
        named = sorted((int(name[len(_NAME) :]), place) for name, place in devices.items() if _is_virtual(name))
        self._named = np.array([number for number, _ in named], np.int64)
        self._places = np.array([place for _, place in named], np.int64)

    @classmethod
    def read(cls, path: str | Path, *, period: float | None = None, passes: float = 1.0) -> "Traces":
        """A trace from a file, CSV or JSON lines, by its content. Raises `InputError`, naming the file and the line."""
        file = Path(path)
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the trace {file} cannot be read: {error}; give a CSV file or JSON lines") from error
        windows = []
        for number, record in _records(text, file):
            try:
                windows.append(_window(record))
            except (InputError, ValueError, TypeError, KeyError) as error:
                raise InputError(f"{file}, line {number}: {error}") from error
        if not windows:
            raise InputError(f"{file} has no windows; expected lines of {', '.join(_COLUMNS)}")
        try:
            return cls(windows, period=period, passes=passes)
        except InputError as error:
            raise InputError(f"{file}: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write the trace as CSV."""
        with Path(path).open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(_COLUMNS)
            for place, row in zip(self._owner.tolist(), self._table.tolist(), strict=True):
                writer.writerow([self.devices[place], *("" if value == math.inf else repr(value) for value in row)])

    @property
    def availability(self) -> npt.NDArray[np.float64]:
        """The share of the period (without one, of the time until the last end) in which each device is there."""
        whole = self.period if math.isfinite(self.period) else float(self._table[:, 1].max())
        return np.asarray(np.bincount(self._owner, self._table[:, 1] - self._table[:, 0], len(self.devices)) / whole)

    # ── what a simulation asks ───────────────────────────────────────────────────────────────────────────────────────

    def behave(self, clients: Sequence[str], invitation: Invitation, random_for: RandomFor) -> Sequence[Behaviour]:
        """How long the task takes on each client's device; a device that is away does not answer."""
        del random_for
        return [self._one(client, invitation) for client in clients]

    def present(self, numbers: npt.NDArray[np.int64], at: float) -> npt.NDArray[np.bool_]:
        """Whether the devices of these clients are there."""
        time = self._in_period(at)
        inside = (self._table[:, 0] <= time) & (time < self._table[:, 1])
        there = np.zeros(len(self.devices), np.bool_)
        there[self._owner[inside]] = True
        return np.asarray(there[self._devices_of(numbers)])

    def next_change(self, number: int, at: float) -> float:
        """When the device comes or goes; where one window begins as another ends, it does neither."""
        place = int(self._devices_of(np.array([number]))[0])
        turns = self._turns[self._first_turn[place] : self._first_turn[place + 1]]
        if not len(turns):
            return math.inf
        time = self._in_period(at)
        following = int(np.searchsorted(turns, time, side="right"))
        if not math.isfinite(self.period):
            return float(turns[following]) if following < len(turns) else math.inf
        lap = round((at - time) / self.period) + (following == len(turns))
        return self._moment(lap, float(turns[following % len(turns)]))

    def _moment(self, lap: int, time: float) -> float:
        """The first time of which `_in_period` says that in this lap the time has come, where sums are rounded."""
        moment = lap * self.period + time
        while (self._in_period(moment) - time) % self.period > self.period / 2:
            moment = math.nextafter(moment, math.inf)
        return moment

    def _one(self, client: str, invitation: Invitation) -> Behaviour:
        place = int(self._devices_of(np.array([_number(client)]))[0])
        rows = self._table[self._first[place] : self._first[place + 1]]
        time = self._in_period(invitation.at)
        row = int(np.searchsorted(rows[:, 0], time, side="right")) - 1
        if row < 0 or time >= rows[row, 1]:
            return Behaviour(drops_out=True)
        _, _, seconds_per_sample, download, upload = rows[row].tolist()
        seconds = invitation.download / download + invitation.upload / upload
        if seconds_per_sample and self.passes:
            seconds += self.passes * invitation.examples(client) * seconds_per_sample
        return Behaviour(seconds)

    def _in_period(self, at: float) -> float:
        return math.fmod(at, self.period) if math.isfinite(self.period) else at

    def _devices_of(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        places = numbers % len(self.devices)
        if len(self._named):
            found = np.minimum(np.searchsorted(self._named, numbers), len(self._named) - 1)
            places = np.where(self._named[found] == numbers, self._places[found], places)
        return np.asarray(places)

    def _all_turns(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """When devices come or go within a period: where each device's times begin, and the times, ascending."""
        starts, ends = self._table[:, 0], self._table[:, 1]
        touches = (self._owner[1:] == self._owner[:-1]) & (starts[1:] == ends[:-1])
        comes = np.concatenate([[True], ~touches])
        goes = np.concatenate([~touches, [True]])
        first, last = self._first[:-1], self._first[1:] - 1
        rings = (starts[first] == 0) & (ends[last] == self.period)  # the end of the trace is no end for these
        comes[first[rings]] = False
        goes[last[rings]] = False
        owner = np.concatenate([self._owner[comes], self._owner[goes]])
        times = np.concatenate([starts[comes], ends[goes]])
        order = np.lexsort((times, owner))
        return np.searchsorted(owner[order], np.arange(len(self.devices) + 1)), times[order]

    def _check_overlaps(self) -> None:
        same = self._owner[1:] == self._owner[:-1]
        over = np.flatnonzero(same & (self._table[1:, 0] < self._table[:-1, 1]))
        if len(over):
            row = int(over[0])
            name, (begins, ends) = self.devices[self._owner[row]], self._table[row, :2]
            raise InputError(
                f"{name} has the window {begins:g} to {ends:g} s and another that begins at "
                f"{self._table[row + 1, 0]:g} s; join them"
            )


def diurnal(
    num_devices: int,
    *,
    seed: int = 0,
    days: int = 7,
    nights: float = 0.9,
    daytime: float = 1.0,
    zones: Sequence[float] = (0.0,),
    seconds_per_sample: float = 0.01,
    sigma: float = 1.0,
    download: float = 4e6,
    upload: float = 3e6,
    link_sigma: float = 0.6,
    passes: float = 1.0,
) -> Traces:
    """Generated phones: there while they charge, mostly at night; log-normal speeds; log-normal links.

    A night begins at 22:30 ± 1:30 (normal) and lasts 7 ± 1.5 hours (normal, 1 to 12); charging by day begins between 8
    and 22 o'clock and lasts 40 minutes on average (exponential). At the least hour a tenth of the devices or fewer are
    there, as Bonawitz et al. found a factor of four between hours, and Yang et al. more for single phones.

    Args:
        num_devices: client-0 to client-{num_devices − 1}; of more clients, some share a device's trace.
        seed: of all that is drawn.
        days: after which the trace begins anew.
        nights: the probability that a device charges in a night.
        daytime: how often it charges by day, on average (Poisson).
        zones: hours that the local clocks are ahead of the virtual one, one of which is drawn for each device.
        seconds_per_sample: the median over the devices.
        sigma: the deviation of its logarithm; that of the AI Benchmark scores of FLASH's 307 phones is 1.36.
        download: bytes a second, the median over the devices; FLASH measured 4.3 MB/s, with a deviation of the
            logarithm of 0.48, on 19 devices.
        upload: the same; FLASH measured 3.3 MB/s and 0.70.
        link_sigma: the deviation of the logarithm of both, which are drawn independently.
        passes: as in `Traces`.

    """
    if num_devices < 1 or days < 1:
        raise InputError(f"num_devices is {num_devices} and days is {days}; both must be at least 1")
    if not (0 <= nights <= 1 and 0 <= daytime < math.inf and len(zones)):
        raise InputError(f"nights is {nights}, daytime {daytime}; nights must be 0 to 1, daytime at least 0")
    rng = np.random.default_rng(seed)
    windows: list[Window] = []
    for device in range(num_devices):
        speeds = (
            seconds_per_sample * math.exp(sigma * rng.standard_normal()),
            download * math.exp(link_sigma * rng.standard_normal()),
            upload * math.exp(link_sigma * rng.standard_normal()),
        )
        ahead = zones[int(rng.integers(len(zones)))] * _HOUR
        charging = _charging(rng, days, nights, daytime, ahead)
        windows.extend(Window(f"{_NAME}{device}", start, end, *speeds) for start, end in charging)
    return Traces(windows, period=days * _DAY, passes=passes)


def _charging(
    rng: np.random.Generator, days: int, nights: float, daytime: float, ahead: float
) -> Iterator[tuple[float, float]]:
    """When one device charges, within `days` days, which follow each other in a ring; at least for one second."""
    whole = days * _DAY
    spans: list[tuple[float, float]] = []
    charges = rng.random(days) < nights
    evenings, lengths = rng.normal(22.5, 1.5, days), rng.normal(7.0, 1.5, days).clip(1.0, 12.0)
    spans.extend(
        (day * _DAY + float(evenings[day]) * _HOUR, float(lengths[day]) * _HOUR)
        for day in np.flatnonzero(charges).tolist()
    )
    for day, times in enumerate(rng.poisson(daytime, days).tolist()):
        hours, minutes = rng.uniform(8.0, 22.0, times).tolist(), rng.exponential(40.0, times).tolist()
        spans.extend((day * _DAY + h * _HOUR, 60.0 * (1.0 + m)) for h, m in zip(hours, minutes, strict=True))
    pieces: list[tuple[float, float]] = []
    for begins, lasts in spans or [(22.5 * _HOUR, 1.0)]:
        start = (begins - ahead) % whole
        end = start + min(lasts, whole)
        pieces += [(start, min(end, whole)), *([(0.0, end - whole)] if end > whole else [])]
    current: tuple[float, float] | None = None
    for start, end in sorted(pieces):
        if current is not None and start <= current[1]:
            current = (current[0], max(current[1], end))
            continue
        if current is not None:
            yield current
        current = (start, end)
    if current is not None:
        yield current


def _records(text: str, file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Each window with the number of its line."""
    if text.lstrip().startswith("{"):
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                yield number, _parsed(line, f"{file}, line {number}")
        return
    reader = csv.DictReader(text.splitlines(), strict=True, restval=None)
    try:
        missing = {"client", "start", "end"} - {name.strip() for name in reader.fieldnames or ()}
        if missing:
            raise InputError(f"{file} lacks the column {min(missing)}; a trace has {', '.join(_COLUMNS)}")
        for row in reader:
            yield reader.line_num, {(name or "").strip(): value for name, value in row.items()}
    except csv.Error as error:
        raise InputError(f"{file}, line {reader.line_num}: {error}") from error


def _parsed(line: str, where: str) -> Mapping[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where} is no JSON: {error}") from error
    if not isinstance(record, dict):
        raise InputError(f"{where} is no object; expected the keys {', '.join(_COLUMNS)}")
    return record


def _window(record: Mapping[str, Any]) -> Window:
    unknown = sorted(set(record) - set(_COLUMNS))
    if unknown:
        raise InputError(f"there is no column {unknown[0]!r}; there is {', '.join(_COLUMNS)}")
    missing = [name for name in ("client", "start", "end") if record.get(name) in {None, ""}]
    if missing:
        raise InputError(f"it has no {missing[0]}")
    given = {name: float(record[name]) for name in _NUMBERS if record.get(name) not in {None, ""}}
    return Window(str(record["client"]).strip(), **given)


def _is_virtual(name: str) -> bool:
    digits = name.removeprefix(_NAME)
    plain = digits != name and digits.isascii() and digits.isdigit() and len(digits) < _INT64_DIGITS
    return plain and str(int(digits)) == digits


def _number(client: str) -> int:
    digits = client.removeprefix(_NAME)
    if not digits.isdigit():
        raise ConfigError(f"{client!r} is no virtual client; a trace is for client-0, client-1 …")
    return int(digits)

"""A simulation in a Ray cluster: each worker is an actor that trains, folds and answers as a stream of values.

The cluster is the one that this process is connected to, that RAY_ADDRESS names or that runs on this machine; where
there is none, one is started here and ended with the simulation. A worker that is lost, by a signal or with its
machine, is replaced, and its clients are trained again. Nothing but bytes and strings goes through Ray.
"""

import json
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, cast
from urllib.parse import urlsplit

from hansa.arrays import Arrays
from hansa.errors import ConfigError, MissingExtraError, RunFailedError
from hansa.settings import quiet_ray, ray_address
from hansa.simulation.child import ONE_THREAD
from hansa.simulation.pipes import Body, Message, packed, unpacked
from hansa.simulation.places import Link
from hansa.simulation.worker import Serving
from hansa.wire import codec

quiet_ray()

try:
    import ray
    from ray.exceptions import RayError
except ImportError as error:
    raise MissingExtraError("simulating in a Ray cluster", "ray") from error

__all__ = ["Cluster"]

_ANSWERS = 5.0
"""Seconds in which a cluster that RAY_ADDRESS names takes a connection; Ray itself would try for minutes."""
_INLINE = 1 << 16
"""Bytes of a body from which on it is put into Ray's store once, where all workers of a machine share it."""


class Cluster:
    """A `Place` of actors, each with one CPU, and its share of a GPU where there are any."""

    second_chances = 2

    def __init__(self, workers: int | None) -> None:
        """workers: None for one per CPU of the cluster. Raises `ConfigError` where it has fewer CPUs."""
        self._started = _connected(workers)
        resources = ray.cluster_resources()
        cpus = int(resources.get("CPU", 0))
        self.count = cpus if workers is None else workers
        if not 1 <= self.count <= cpus:
            self.close()
            raise ConfigError(f"workers is {workers}, and Ray's cluster has {cpus} CPUs: each worker takes one")
        gpus = min(1.0, resources.get("GPU", 0.0) / self.count)
        self._actor = ray.remote(_Worker).options(
            num_cpus=1, num_gpus=int(gpus * 1e4) / 1e4, runtime_env={"env_vars": ONE_THREAD}
        )
        self._body: tuple[Body, Any] | None = None

    def start(self) -> Link:
        """See `Place`."""
        return _Actor(self, self._actor.remote())

    def wait(self, links: Sequence[Link]) -> Sequence[Link]:
        """See `Place`."""
        actors = cast("Sequence[_Actor]", links)
        while not (ready := [actor for actor in actors if actor.is_ready]):
            streams = {actor.stream: actor for actor in actors}
            for stream in ray.wait(list(streams), num_returns=1)[0]:
                streams[stream].fetch()
        return ready

    def gives_up(self) -> bool:
        """See `Place`."""
        return False

    def close(self) -> None:
        """See `Place`; a cluster that was there before stays."""
        if self._started:
            self._started = False
            ray.shutdown()

    def shared(self, body: Body | None) -> Any:
        """What a call is given for a body: its bytes, or where Ray's store has them; the last ones are there once."""
        if body is None or len(body.encoded) < _INLINE:
            return None if body is None else body.encoded
        if self._body is None or self._body[0] is not body:
            self._body = body, ray.put(body.encoded)
        return self._body[1]


class _Worker:
    """In an actor of Ray."""

    def __init__(self) -> None:
        self._serving = Serving()

    def answers(self, job: str, body: bytes | None) -> Iterator[tuple[str, bytes | None]]:
        """As `Serving.answers`, of plain values."""
        arrays = Arrays() if body is None else codec.decode(body)
        for message, content in (packed(*answer) for answer in self._serving.answers(json.loads(job), arrays)):
            yield json.dumps({**message, "body": content is not None}), None if content is None else content.encoded


class _Actor:
    """A worker as the simulation sees it."""

    def __init__(self, cluster: Cluster, handle: Any) -> None:
        self._cluster = cluster
        self._handle = handle
        self._streams: deque[Any] = deque()
        """Of the jobs that are not done, in order."""
        self._fetched: deque[Any] = deque()
        """References to answers that were not received."""
        self._lost = "the simulation"

    @property
    def is_ready(self) -> bool:
        return bool(self._fetched)

    @property
    def stream(self) -> Any:
        """Where its next answer comes from."""
        return self._streams[0]

    def fetch(self) -> None:
        """Take what the first stream has: an answer, or its end."""
        try:
            self._fetched.append(next(self._streams[0]))
        except StopIteration:
            self._streams.popleft()

    def send(self, message: Message, body: Body | None = None) -> None:
        call = self._handle.answers.options(num_returns="streaming")
        self._streams.append(call.remote(json.dumps(message), self._cluster.shared(body)))

    def receive(self) -> tuple[Message, Arrays]:
        while not self._fetched:
            self.fetch()
        try:
            text, body = ray.get(self._fetched.popleft())
        except RayError as error:
            self._lost = f"{type(error).__name__} of Ray: {' '.join(str(error).split())}"
            raise EOFError from error
        return unpacked(json.loads(text), Arrays() if body is None else codec.decode(body))

    def dismiss(self) -> None:
        ray.kill(self._handle)

    def end(self) -> str:
        self.dismiss()
        return self._lost


def _connected(workers: int | None) -> bool:
    """Connect to a cluster; returns whether one was started for that."""
    if ray.is_initialized():
        return False
    quiet: dict[str, Any] = {"logging_level": "error"}
    named = ray_address()
    try:
        check_answers(named)
        ray.init(address="auto", **quiet)
    except OSError as error:  # a ConnectionError of Ray's is one
        if named:
            raise RunFailedError(
                f"RAY_ADDRESS is {named}, and no Ray cluster answers there ({' '.join(str(error).split())}): start one "
                "there by `ray start --head`, correct it, or unset it for a cluster on this machine"
            ) from error
        _start(num_cpus=workers, include_dashboard=False, **quiet)
    return True


def check_answers(address: str) -> None:
    """Raise `OSError` unless something takes a connection there; address: host:port, or what names no other machine."""
    try:
        there = urlsplit(address if "://" in address else f"//{address}")
        host, port = there.hostname, there.port
    except ValueError as error:
        raise OSError(f"that is no host:port: {error}") from error
    if host is not None and port is not None:
        socket.create_connection((host, port), _ANSWERS).close()


def _start(**given: Any) -> None:
    """Start a cluster on this machine; raises `RunFailedError` where it does not come up."""
    try:
        ray.init(**given)
    except Exception as error:  # Ray raises nothing narrower where a part of it does not start in time
        raise RunFailedError(
            f"Ray did not start a cluster on this machine: {' '.join(str(error).split())} A machine that is busy may "
            "need another try; or start one by `ray start --head`, which this joins"
        ) from error

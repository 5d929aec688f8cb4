"""What a simulation and its workers say to each other: plain values and safetensors, over a pair of pipes.

A message is one frame of JSON, followed by as many bytes of safetensors as its `"body"` says. They go from the memory
of the arrays to memory that is theirs, with nothing in between but the pipe.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

import numpy as np

from hansa.arrays import Arrays
from hansa.errors import ConfigError, Reason
from hansa.messages import EvaluationRules, Metrics, RoundRules, RunSpec, Sample
from hansa.pipeline import slots_from_arrays, slots_to_arrays
from hansa.simulation.fold import Failed, Folded, Outcome, Refused
from hansa.wire import codec

__all__ = ["Body", "Channel", "Message", "packed", "receive", "send", "spec_from", "spec_to", "unpacked"]

Message: TypeAlias = dict[str, Any]
"""The JSON part of a message."""

Channel: TypeAlias = "Connection[Any, Any]"


class Body:
    """The arrays of a message: encoded once, to however many it goes, and not at all where it stays in this process."""

    def __init__(self, arrays: Arrays) -> None:
        """arrays: not to be changed afterwards."""
        self.arrays = arrays

    @cached_property
    def parts(self) -> Sequence[bytes | memoryview]:
        """As safetensors: the header, and the memory of each tensor."""
        return codec.encode(self.arrays)

    @cached_property
    def encoded(self) -> bytes:
        """The same in one piece."""
        return b"".join(self.parts)


def send(pipe: Channel, message: Mapping[str, Any], body: Body | None = None) -> None:
    """Send one message. Raises OSError when the other side is gone."""
    message, body = packed(message, body)
    parts = [] if body is None else [memoryview(part) for part in body.parts]
    pipe.send_bytes(json.dumps({**message, "body": sum(part.nbytes for part in parts)}).encode())
    for part in parts:
        sent = 0
        while sent < part.nbytes:
            sent += os.write(pipe.fileno(), part[sent:])


def receive(pipe: Channel) -> tuple[Message, Arrays]:
    """Receive one message, without arrays where it has none; raises EOFError or OSError when the other side is gone."""
    message: Message = json.loads(pipe.recv_bytes())
    if not message["body"]:
        return unpacked(message, Arrays())
    body = np.empty(message["body"], np.uint8).data
    received = 0
    while received < body.nbytes:
        more = os.readv(pipe.fileno(), [body[received:]])
        if not more:
            raise EOFError(f"the other side has ended in the middle of {body.nbytes} bytes")
        received += more
    return unpacked(message, codec.decode(body.toreadonly()))


def packed(message: Mapping[str, Any], body: Body | None) -> tuple[Mapping[str, Any], Body | None]:
    """A message as plain values: `"results"`, by client, what became of their tasks; what they keep is its body."""
    results: Mapping[str, Outcome | Metrics] | None = message.get("results")
    if results is None:
        return message, body
    kept = {
        client: result.memory
        for client, result in results.items()
        if isinstance(result, Folded) and result.memory is not None
    }
    plain = {client: _result_to(result) for client, result in results.items()}
    return {**message, "results": plain}, Body(slots_to_arrays(kept)) if kept else None


def unpacked(message: Message, body: Arrays) -> tuple[Message, Arrays]:
    """The inverse of `packed`, of a message and its body."""
    if "results" not in message:
        return message, body
    kept, results = slots_from_arrays(body), message["results"]
    return {**message, "results": {name: _result_from(told, kept.get(name)) for name, told in results.items()}}, body


def spec_to(spec: RunSpec) -> Message:
    """A spec as plain values."""
    message = asdict(spec)
    try:
        json.dumps(message)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"the settings of the run cannot be sent to a worker process ({error}): use numbers, strings, booleans, "
            "lists and mappings in `config`, `algorithm_options`, `aggregator_options` and `transforms`"
        ) from error
    return message


def spec_from(message: Mapping[str, Any]) -> RunSpec:
    """The inverse of `spec_to`."""
    plain = dict(message)
    rules, evaluation = RoundRules(**plain.pop("rules")), EvaluationRules(**plain.pop("evaluation"))
    return RunSpec(**plain, rules=rules, evaluation=evaluation)


def _result_to(result: Outcome | Metrics) -> Message:
    """What became of one client's task, as plain values, without what it keeps."""
    match result:
        case Folded(num_examples, weight, metrics, _, size, samples, norm):
            numbers: Message = {"num_examples": num_examples, "weight": weight, "upload_bytes": size, "norm": norm}
            numbers |= {"samples": [[sample.name, sample.value, sample.step] for sample in samples]} if samples else {}
            return {"result": "folded", **numbers, "metrics": dict(metrics)}
        case Refused(reason, detail, full):
            return {"result": "refused", "reason": reason.value, "detail": detail, "full": full}
        case Failed(message, traceback):
            return {"result": "failed", "message": message, "traceback": traceback}
        case Metrics():
            return {"result": "metrics", "num_examples": result.num_examples, "metrics": dict(result.values)}


def _result_from(message: Message, kept: Arrays | None) -> Outcome | Metrics:
    """The inverse of `_result_to`, with what the client keeps."""
    match message["result"]:
        case "folded":
            samples = tuple(Sample(*each) for each in message.get("samples", ()))
            size, norm = message["upload_bytes"], message["norm"]
            return Folded(message["num_examples"], message["weight"], message["metrics"], kept, size, samples, norm)
        case "refused":
            return Refused(Reason(message["reason"]), message["detail"], message["full"])
        case "failed":
            return Failed(message["message"], message["traceback"])
        case _:
            return Metrics(message["metrics"], message["num_examples"])

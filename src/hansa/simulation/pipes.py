"""What a simulation and its workers say to each other: plain values and safetensors, over a pair of pipes.

A message is one frame of JSON, followed by one frame of safetensors where it says `"body": true`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

from hansa.arrays import Arrays
from hansa.errors import ConfigError, Reason
from hansa.messages import EvaluationRules, Metrics, RoundRules, RunSpec, Sample
from hansa.simulation.fold import Failed, Folded, Outcome, Refused
from hansa.wire import codec

__all__ = ["Channel", "Message", "receive", "result_from", "result_to", "send", "spec_from", "spec_to", "to_bytes"]

Message: TypeAlias = dict[str, Any]
"""The JSON part of a message."""

Channel: TypeAlias = "Connection[Any, Any]"


def to_bytes(arrays: Arrays) -> bytes:
    """The body of a message."""
    return b"".join(codec.encode(arrays))


def send(pipe: Channel, message: Mapping[str, Any], body: bytes | None = None) -> None:
    """Send one message; body: of `to_bytes`. Raises OSError when the other side is gone."""
    pipe.send_bytes(json.dumps({**message, "body": body is not None}).encode())
    if body is not None:
        pipe.send_bytes(body)


def receive(pipe: Channel) -> tuple[Message, Arrays]:
    """Receive one message, without arrays where it has none; raises EOFError or OSError when the other side is gone."""
    message: Message = json.loads(pipe.recv_bytes())
    return message, codec.decode(pipe.recv_bytes()) if message["body"] else Arrays()


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


def result_to(result: Outcome | Metrics) -> Message:
    """What became of one client's task, as plain values; what it keeps is the body of the message."""
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


def result_from(message: Message, body: Arrays) -> Outcome | Metrics:
    """The inverse of `result_to`, as `receive` gives it."""
    match message["result"]:
        case "folded":
            kept = body if message["body"] else None
            samples = tuple(Sample(*each) for each in message.get("samples", ()))
            size, norm = message["upload_bytes"], message["norm"]
            return Folded(message["num_examples"], message["weight"], message["metrics"], kept, size, samples, norm)
        case "refused":
            return Refused(Reason(message["reason"]), message["detail"], message["full"])
        case "failed":
            return Failed(message["message"], message["traceback"])
        case _:
            return Metrics(message["metrics"], message["num_examples"])

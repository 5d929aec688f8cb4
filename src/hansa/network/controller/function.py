"""The process that calls one function of an app once: `python -m hansa.network.controller.function`.

It reads `call.json` and safetensors files in a folder, and leaves `result.json`, or `result.safetensors` for arrays,
and `memory.json`; or `error.json`. It keeps nothing: the next call is another process, so that what a function leaves
anywhere but in `task.memory` decides nothing.
"""

import argparse
import json
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hansa.app import load_app, users_traceback
from hansa.errors import HansaError
from hansa.messages import Candidate, Update
from hansa.network.client.limits import Limits
from hansa.run import resolve
from hansa.store.documents import spec_from_json
from hansa.wire import codec

__all__ = ["CALL", "ERROR", "MEMORY", "MODEL", "RESULT", "RESULT_ARRAYS", "main"]

CALL, MODEL, RESULT, RESULT_ARRAYS, MEMORY, ERROR = (
    "call.json", "model.safetensors", "result.json", "result.safetensors", "memory.json", "error.json",
)  # fmt: skip


def main() -> None:
    """Do the call in a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--app", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--limits", type=Limits.decode, required=True)
    given = parser.parse_args()
    given.limits.apply()
    folder: Path = given.folder
    try:
        _called(given.app, json.loads((folder / CALL).read_text(encoding="utf-8")), folder)
    except BaseException as error:  # noqa: BLE001 - the app's code may raise anything: the session is told
        said = str(error) if isinstance(error, HansaError) else "".join(traceback.format_exception_only(error)).strip()
        told = {"message": said, "traceback": users_traceback(error)}
        (folder / ERROR).write_text(json.dumps(told), encoding="utf-8")


def _called(path: Path, call: Mapping[str, Any], folder: Path) -> None:
    app, run = load_app(path), resolve(spec_from_json(call["spec"]))
    number, memory = call["round"], call["memory"]
    match call["function"]:
        case "select":
            clients = [Candidate(name, labels) for name, labels in call["clients"]]
            _write(folder / RESULT, list(run.selected(app, clients, number, memory)))
        case "configure":
            _write(folder / RESULT, dict(run.configured(app, codec.load(folder / MODEL), number, memory)))
        case _:
            updates = _updates(call["updates"], folder)
            made = run.aggregated(app, codec.load(folder / MODEL), updates, number, memory)
            codec.save(made, folder / RESULT_ARRAYS)
    _write(folder / MEMORY, memory)


def _updates(told: list[Any], folder: Path) -> Iterator[tuple[str, Update]]:
    for client, num_examples, metrics, file in told:
        yield client, Update(codec.load(folder / file), num_examples, metrics)


def _write(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value), encoding="utf-8")


if __name__ == "__main__":
    main()

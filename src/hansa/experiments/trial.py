"""What runs an app that somebody has brought: its initial model, or a simulation, in a process of its own.

    python -m hansa.experiments.trial APP SPEC OUT LIMITS [CLIENTS]

SPEC is a file of JSON; LIMITS bind the process before it loads the app. Without CLIENTS the initial model is written to
OUT, and one line of JSON on standard output has the spec as it suits the app; with CLIENTS each round is such a line,
and the last model is in OUT. What the app prints goes to standard error, and so does the last line of a failure.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from hansa.app import load_app
from hansa.errors import HansaError
from hansa.network.client.limits import Limits
from hansa.run import check_networked, check_settings, resolve, suit
from hansa.simulation import RoundRecord, simulate
from hansa.simulation.pipes import spec_from
from hansa.simulation.record import plain_round
from hansa.store.documents import spec_to_json
from hansa.wire import codec

__all__ = ["draw", "main", "run"]


def draw(app: Path, spec: dict[str, Any], out: Path) -> dict[str, Any]:
    """Write the app's initial model, and return the spec without what the app has no functions for."""
    loaded = load_app(app)
    suited = suit(spec_from(spec), loaded)
    check_settings(loaded, suited)
    resolved = resolve(suited)
    check_networked(resolved)
    out.write_bytes(b"".join(codec.encode(resolved.initial_model(loaded))))
    return spec_to_json(suited)


def run(app: Path, spec: dict[str, Any], out: Path, clients: int, told: IO[str]) -> None:
    """Simulate, and tell each round as it ends."""

    def tell(done: RoundRecord) -> None:
        _say(told, json.dumps(plain_round(asdict(done))))

    result = simulate(app, spec_from(spec), clients=clients, on_round=tell, progress=False)
    out.write_bytes(b"".join(codec.encode(result.model)))


def main(arguments: list[str]) -> int:
    """The exit code: 0, or 1 where it failed."""
    app, spec, out, limits, *clients = arguments
    Limits.decode(limits).apply()
    given = json.loads(Path(spec).read_text(encoding="utf-8"))
    told, sys.stdout = sys.stdout, sys.stderr
    try:
        if clients:
            run(Path(app), given, Path(out), int(clients[0]), told)
        else:
            _say(told, json.dumps(draw(Path(app), given, Path(out))))
    except HansaError as error:
        _say(sys.stderr, str(error))
        return 1
    except (Exception, SystemExit) as error:  # noqa: BLE001 - user code may raise anything, and call exit()
        _say(sys.stderr, f"{type(error).__name__}: {error}")
        return 1
    return 0


def _say(where: IO[str], line: str) -> None:
    where.write(f"{line}\n")
    where.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

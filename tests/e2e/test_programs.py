import json
import signal
import time

from processes import Hansa, Server, line_with

from hansa.app import load_app
from hansa.distributed import load, run
from hansa.protocols.topology import complete

APP = """
import time
from dataclasses import dataclass
from pathlib import Path

import hansa
from hansa.distributed import complete, message

app = hansa.App()


@message("ward.sum")
@dataclass(frozen=True)
class Sum:
    total: float


@app.program
def program(parties, *, gate=""):
    async def sums(worker):
        total = float(worker.settings.get("beds", worker.number + 1))
        for number in range(40):
            worker.broadcast(Sum(total))
            total += sum(heard.total for heard in (await worker.gather(Sum)).values()) / 3
            if number == 20 and worker.number == 1:
                Path(gate + ".reached").touch()
                while not Path(gate).exists():
                    time.sleep(0.01)
        return Sum(total)

    return sums, complete(parties)
"""


def test_a_program_outlives_kill_9_of_a_client_and_of_the_server(hansa: Hansa, server: Server) -> None:
    app, gate = hansa.folder / "app.py", hansa.folder / "gate"
    app.write_text(APP)

    def client(name: str, beds: int) -> "tuple[object, ...]":
        return name, 0, 1, app, "--work", hansa.folder / name, "--set", f"beds={beds}"

    first = hansa.client(server, *client("north", 1))
    hansa.client(server, *client("south", 2))
    settings = ("--no-package", "--set", f"gate={gate}")  # confined code of a package could not write the file
    session = hansa.json("session", "start", app, "--parties", "north,south", "--detach", *settings)
    while not gate.with_suffix(".reached").exists():
        time.sleep(0.02)
    first.kill()
    server.process.kill()
    first.wait()
    server.process.wait()
    port = server.facts["grpc_address"].rpartition(":")[2]
    rest = server.facts["url"].rpartition(":")[2].strip("/")
    again = Server(hansa.start("up", "--json", "--port", rest, "--grpc-port", port), server.facts)
    line_with(again.process, "{")
    hansa.client(again, *client("north", 1))
    gate.touch()
    shown = hansa.run("session", "watch", session["id"])
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "south has ended: total" in shown.stdout
    session = json.loads(hansa.run("session", "list", "--json").stdout)
    assert session["state"] == "finished"
    program, _ = load_app(app).program_of(2, {"gate": str(gate)})
    expected = run(program, complete(2), over="process").results
    found = [
        load(hansa.folder / name / "results" / session["id"] / "ward.sum.safetensors") for name in ("north", "south")
    ]
    assert [each.total for each in found] == [each.total for each in expected]
    numbers = hansa.call("metrics", session["id"]).stdout
    assert all(f"program {name}" in numbers for name in ("north", "south")), numbers
    assert "0 north, 1 south" in hansa.call("session", "show", session["id"]).stdout
    assert "waits for nothing: it is finished" in hansa.call("session", "why", session["id"]).stdout
    assert hansa.call("verify", session["id"]).exit_code == 0
    bundle = hansa.json("session", "export", session["id"])["path"]
    assert hansa.call("verify", "--bundle", hansa.folder / bundle).exit_code == 0
    again.process.send_signal(signal.SIGTERM)

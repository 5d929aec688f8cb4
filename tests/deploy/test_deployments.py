"""What deploy/ describes is what the commands take: its settings are known, and its parts run as it starts them."""

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from commandline import TINY, written
from processes import Hansa, line_with
from pydantic import SecretStr
from servers import free_port

from hansa.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*/*.yaml"))


@dataclass(frozen=True)
class Part:
    """One container: the arguments of `hansa`, and variables with values."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str]

    def at(self, places: Mapping[str, str]) -> "Part":
        """The same part elsewhere: what stands for hosts and files replaced by what there is here."""

        def placed(text: str) -> str:
            for name, place in places.items():
                text = text.replace(name, place)
            return text

        return Part(
            tuple(map(placed, self.arguments)), {name: placed(value) for name, value in self.environment.items()}
        )


def documents(path: Path) -> Iterator[dict[str, Any]]:
    for each in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        assert isinstance(each, dict)
        yield each


def stateful_set(component: str) -> dict[str, Any]:
    described = documents(DEPLOY / "kubernetes" / component / f"{component}.yaml")
    (found,) = (each for each in described if each["kind"] == "StatefulSet")
    return found


def by_kubernetes(component: str) -> Part:
    """The only container of a pod called POD."""
    (container,) = stateful_set(component)["spec"]["template"]["spec"]["containers"]
    environment = {each["name"]: each.get("value", "POD") for each in container.get("env", ())}

    def expanded(text: str) -> str:
        return re.sub(r"\$\((\w+)\)", lambda name: environment.get(name[1], name[1]), text)

    return Part(tuple(map(expanded, container["args"])), {name: expanded(value) for name, value in environment.items()})


def by_compose(component: str) -> Part:
    """A service as it is started without variables of one's own; what has no default is its name."""

    def expanded(text: str) -> str:
        return re.sub(r"\$\{(\w+)(:[-?]([^}]*))?\}", lambda it: it[1] if it[2][1] == "?" else it[3], text)

    (file,) = documents(DEPLOY / ("client.yaml" if component == "client" else "compose.yaml"))
    service = file["services"][component]
    environment = {name: expanded(str(value)) for name, value in service["environment"].items()}
    return Part(tuple(shlex.split(expanded(service["command"]))), environment)


BY = {"compose": by_compose, "kubernetes": by_kubernetes}
PARTS = [(how, component) for how in BY for component in ("server", "combiner", "client")]


@pytest.mark.parametrize("path", [*MANIFESTS, *DEPLOY.glob("*.yaml"), DEPLOY / "Containerfile"], ids=str)
def test_every_setting_is_one_that_hansa_has(path: Path) -> None:
    known = {f"HANSA_{name.upper()}" for name in Settings.model_fields}
    known |= {
        f"HANSA_{name.upper()}_FILE"
        for name, field in Settings.model_fields.items()
        if SecretStr in {field.annotation, *getattr(field.annotation, "__args__", ())}
    }
    of_compose = {"HANSA_IMAGE", "HANSA_JOIN", "HANSA_OWN_DATA"}
    assert set(re.findall(r"HANSA_\w+", path.read_text(encoding="utf-8"))) <= known | of_compose


@pytest.mark.parametrize("how", BY)
def test_a_session_runs_on_what_is_described(how: str, hansa: Hansa, tmp_path: Path) -> None:
    server, combiner, client = (BY[how](component) for component in ("server", "combiner", "client"))
    assert server.arguments == ("up",)
    up = hansa.up()
    for name, role in (("relay", "combiner"), ("ward", "client")):
        token = hansa.json("token", "create", name, "--role", role)["token"]
        (tmp_path / f"{name}.token").write_text(token, encoding="utf-8")
    port = free_port()
    server_here = dict.fromkeys(("HANSA_JOIN", "JOIN", "hansa-server:8471", "server:8471"), up.join)
    combiner_here = server_here | {
        "0.0.0.0": "127.0.0.1",  # noqa: S104 - taken out
        "POD.hansa-combiner": "127.0.0.1",
        "combiner:8471": f"127.0.0.1:{port}",
        ":8471": f":{port}",
        "/run/tokens/POD": f"{tmp_path}/relay.token",
        "/run/secrets/combiner-token": f"{tmp_path}/relay.token",
    }
    client_here = server_here | {
        "/run/tokens/POD": f"{tmp_path}/ward.token",
        "/run/secrets/token": f"{tmp_path}/ward.token",
        "/etc/hansa/": f"{DEPLOY}/kubernetes/client/",
        "/data": str(tmp_path),
    }
    for part in (combiner.at(combiner_here), client.at(client_here)):
        environment = {name: value for name, value in part.environment.items() if name.startswith("HANSA_")}
        environment |= {"HANSA_CA": up.facts["ca"], "HANSA_WORK": str(tmp_path / part.arguments[0])}
        line_with(hansa.start(*part.arguments, "--json", **environment), '"connected"')
    session = hansa.json("session", "start", written(tmp_path, TINY), "--rounds", 2)
    assert session["state"] == "finished"
    assert session["round"] == 2
    assert hansa.json("client", "list")["combiner"] == "relay"  # which the server has heard of by now


@pytest.mark.parametrize("component", ["server", "combiner", "client"])
def test_a_pod_may_do_no_more_than_it_needs_and_keeps_its_folder(component: str) -> None:
    described = stateful_set(component)["spec"]
    pod = described["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert not pod["automountServiceAccountToken"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    (claim,) = described["volumeClaimTemplates"]
    places = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert places[claim["metadata"]["name"]] == "/var/lib/hansa"
    volumes = {volume["name"] for volume in pod["volumes"]} | {claim["metadata"]["name"]}
    assert set(places) == volumes
    image = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    assert f"USER {pod['securityContext']['runAsUser']}:{pod['securityContext']['fsGroup']}" in image
    assert all(
        value.startswith("/var/lib/hansa/")
        for value in re.findall(r"HANSA_(?:DATA|WORK|CREDENTIALS)=(\S+)", image)
    )  # fmt: skip


def test_clients_can_be_dialled_by_nobody() -> None:
    kinds = {each["kind"]: each for each in documents(DEPLOY / "kubernetes" / "client" / "client.yaml")}
    assert set(kinds) == {"StatefulSet", "NetworkPolicy"}
    policy = kinds["NetworkPolicy"]["spec"]
    assert "ingress" not in policy
    assert "Ingress" in policy["policyTypes"]
    assert policy["podSelector"]["matchLabels"] == kinds["StatefulSet"]["spec"]["selector"]["matchLabels"]
    (file,) = documents(DEPLOY / "client.yaml")
    assert "ports" not in file["services"]["client"]

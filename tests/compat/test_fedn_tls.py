"""FEDn's clients at servers whose callers must show certificates, and behind something that ends TLS."""

import asyncio
import ssl
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from federation import Federation
from fedn_fleet import Fleet, FleetClient, adds, ended, scripts, start
from grpc import StatusCode
from tls_proxy import ending_tls

from hansa.compat.fedn.server import FednServer
from hansa.errors import HansaError
from hansa.network.controller.server import ControllerServer
from hansa.network.entrance import Entrance
from hansa.settings import Settings
from hansa.store.records import SessionState
from hansa.wire.authority import Authority
from hansa.wire.frames import Role
from hansa.wire.transport import GRPC

CORPORATE = Authority.new()


def pair(folder: Path) -> dict[str, Path]:
    """The operator's own certificate, as files."""
    shown = CORPORATE.certify(["127.0.0.1"])
    (folder / "chain.pem").write_text(shown.chain)
    (folder / "key.pem").write_text(shown.key)
    return {"tls_cert": folder / "chain.pem", "tls_key": folder / "key.pem"}


async def opened(stack: AsyncExitStack, folder: Path, **settings: Any) -> Fleet:
    (folder / "callers.pem").write_text(CORPORATE.certificate)
    chosen = Settings(
        data=folder / "controller", grpc_port=0, port=0, fedn_grpc_port=0, fedn_port=0, host="127.0.0.1",
        **({"fedn_weak": "joining"} | settings),
    )  # fmt: skip
    control = await ControllerServer.open(chosen)
    stack.push_async_callback(control.aclose)
    made = Fleet(Federation(control, folder, 5.0), await FednServer.open(control, chosen), chosen)
    stack.push_async_callback(made.server.aclose)
    return made


@pytest.mark.parametrize("own", [False, True])
async def test_they_need_no_certificate_where_other_callers_must_show_one(tmp_path: Path, *, own: bool) -> None:
    """own: whether the operator has a certificate, in the place of those that the network signs."""
    async with AsyncExitStack() as stack:
        certificate = pair(tmp_path) if own else {}
        callers = tmp_path / "callers.pem"
        made = await opened(stack, tmp_path, tls_client_ca=callers, fedn_tls="off", **certificate)
        client = await made.start(FleetClient(made.server.grpc_address, "a", adds(1, 2)))
        async with scripts(made) as script:
            session = await ended(made, await start(script, rounds=2))
        await client.replied(2)
        token, _ = await made.made.controller.issue_token("default", "ward", Role.CLIENT)
        with pytest.raises(HansaError):
            await Entrance(made.made.server.address, token, tmp_path / "keys", made.made.trust, GRPC).assigned("", {})
        for each in made.running:
            each.cancel()
        await asyncio.gather(*made.running, return_exceptions=True)
    assert session.state is SessionState.FINISHED, session.cause
    assert len(client.replies) == 2


async def test_tls_of_their_port_asks_them_for_none_either(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        made = await opened(stack, tmp_path, tls_client_ca=tmp_path / "callers.pem", fedn_tls="on", **pair(tmp_path))
        client = FleetClient(made.server.grpc_address, "a", adds(1, 2), root=CORPORATE.certificate.encode())
        await made.start(client)
        for each in made.running:
            each.cancel()
        await asyncio.gather(*made.running, return_exceptions=True)
    assert client.ended is None


async def test_something_before_the_ports_may_end_tls_and_tokens_pass_it(tmp_path: Path) -> None:
    files = pair(tmp_path)
    there = files["tls_cert"], files["tls_key"]
    async with AsyncExitStack() as stack:
        made = await opened(stack, tmp_path, tls="proxy", fedn_tls="proxy", fedn_weak="off")
        grpc = await stack.enter_async_context(ending_tls(made.server.grpc_address, *there))
        rest = await stack.enter_async_context(ending_tls(made.server.url.removeprefix("http://"), *there))
        token, _ = await made.made.controller.issue_token("default", "ward", Role.CLIENT)
        verify = ssl.create_default_context(cadata=CORPORATE.certificate)
        headers = {"Authorization": f"Bearer {token}"}
        told = {"client_id": "a", "name": "a", "package": "local", "preferred_combiner": ""}
        async with httpx.AsyncClient(base_url=f"https://{rest}", verify=verify, headers=headers, timeout=60) as client:
            assigned = (await client.post("/api/v1/clients/add", json=told)).json()
        root = CORPORATE.certificate.encode()
        client = FleetClient(grpc, "a", adds(1, 2), root=root, token=token)
        await made.start(client, token)
        stranger = FleetClient(grpc, "a", adds(1, 2), root=root)
        await stranger.run()
        async with scripts(made) as script:
            session = await ended(made, await start(script, rounds=2))
        await client.replied(2)
        for each in made.running:
            each.cancel()
        await asyncio.gather(*made.running, return_exceptions=True)
    assert assigned["status"] == "assigned"
    assert assigned["fqdn"] == "127.0.0.1", "Python's clients speak TLS to what has a name"
    assert session.state is SessionState.FINISHED, session.cause
    assert len(client.replies) == 2
    assert stranger.ended is StatusCode.UNAUTHENTICATED

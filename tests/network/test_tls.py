"""Networks with TLS: how their nodes know one another, and how certificates change while they run."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from federation import PROJECT, Federation, federation
from structlog.testing import capture_logs

from hansa.api.metrics import Metrics
from hansa.api.state import system_state
from hansa.errors import ConnectionFailedError, HansaError, InputError, PermissionDeniedError, UntrustedServerError
from hansa.messages import ClientInfo, RoundRules, RunSpec
from hansa.network.certificates import FromFiles, watch_end
from hansa.network.client.agent import Agent
from hansa.network.combiner.certificate import SignedByNetwork
from hansa.network.controller.certificates import FromAuthority, Secured, names_of_host
from hansa.network.controller.server import ControllerServer
from hansa.network.entrance import Entrance
from hansa.settings import Settings
from hansa.simulation import simulate
from hansa.store.records import SessionState
from hansa.wire import tls, tokens
from hansa.wire.authority import Authority, expires_at, new_request
from hansa.wire.calls import Assignment
from hansa.wire.frames import Role
from hansa.wire.tls import Certificate, Trust
from hansa.wire.transport import GRPC

DAY = 86_400.0
CORPORATE = Authority.new()
"""An authority that is not the network's."""


def spec(rounds: int, clients: int) -> RunSpec:
    return RunSpec(rounds=rounds, rules=RoundRules(min_clients=clients, quorum=clients))


def written(folder: Path, certificate: Certificate) -> tuple[Path, Path]:
    """The pair as files, put in place as a certificate manager does."""
    folder.mkdir(exist_ok=True)
    for name, text in (("server.crt", certificate.chain), ("server.key", certificate.key)):
        part = folder / f"{name}.part"
        part.write_text(text)
        part.replace(folder / name)
    return folder / "server.crt", folder / "server.key"


@asynccontextmanager
async def served(folder: Path, **settings: Any) -> AsyncIterator[Federation]:
    """A network whose controller has these settings."""
    server = await ControllerServer.open(Settings(data=folder / "controller", grpc_port=0, port=0, **settings))
    made = Federation(server, folder, 5.0)
    try:
        yield made
    finally:
        for name in list(made.nodes):
            await made.leave(name)
        await server.aclose()


async def test_a_client_that_is_told_another_fingerprint_says_nothing_to_this_controller(tmp_path: Path) -> None:
    async with federation(tmp_path) as made:
        token, _ = await made.controller.issue_token(PROJECT, "ward", Role.CLIENT)
        trust = Trust(fingerprint=CORPORATE.fingerprint)
        agent = Agent(ClientInfo("ward"), join=made.server.address, token=token, work=tmp_path / "ward", trust=trust)
        with pytest.raises(UntrustedServerError, match="is not a server of the network"):
            await agent.run()


async def test_a_session_goes_on_while_every_certificate_is_replaced(app: Path, tmp_path: Path) -> None:
    async with federation(tmp_path, ["west"]) as made:
        await made.clients(2, app, below=("west",))
        session = await made.start(app, spec(6, 2), package=False)
        await made.until_round(session, 2)
        shown = made.server.secure.shown
        assert shown is not None
        assert isinstance(shown.certificate, FromAuthority)
        before = shown.certificate()
        shown.certificate._until = 0.0
        assert shown.certificate().chain != before.chain
        await made.leave("client-0")
        await made.client("client-0", 0, 2, app=app, preferred="west")
        ended = await made.end(session)
        assert ended.state is SessionState.FINISHED, ended.cause
        assert ended.model == simulate(app, spec(6, 2), clients=2).model_hash


async def test_a_combiner_asks_for_its_next_certificate_before_the_last_one_ends(tmp_path: Path) -> None:
    async with federation(tmp_path) as made:
        token, _ = await made.controller.issue_token(PROJECT, "west", Role.COMBINER)
        entrance = Entrance(made.server.address, token, tmp_path / "keys", made.trust, GRPC)
        late = 0.0
        signed = await SignedByNetwork.first(entrance, who="west", clock=lambda: late)
        first = signed.certificate
        late = expires_at(first.chain)
        staying = asyncio.create_task(signed.stay())
        async with asyncio.timeout(20):
            while signed.certificate is first:  # noqa: ASYNC110 - a second at most: it does not ask in a loop
                await asyncio.sleep(0.05)
        staying.cancel()
        assert signed.certificate.key != first.key


@pytest.mark.parametrize("host", ["::1", "[::1]"])
async def test_a_network_may_be_one_of_ipv6(host: str, tmp_path: Path) -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("this machine has no IPv6")
    async with served(tmp_path, host=host) as made:
        assert made.server.address.startswith("[::1]:")
        await made.client("ward")
        assert made.tree.directory.clients.keys() == {"ward"}


async def test_only_combiners_get_certificates(tmp_path: Path) -> None:
    async with federation(tmp_path) as made:
        token, _ = await made.controller.issue_token(PROJECT, "ward", Role.CLIENT)
        entrance = Entrance(made.server.address, token, tmp_path / "keys", made.trust, GRPC)
        with pytest.raises(PermissionDeniedError, match="only combiners"):
            await entrance.certified(new_request()[1])


async def test_without_tls_a_network_works_for_those_who_say_so(app: Path, tmp_path: Path) -> None:
    async with served(tmp_path, tls="off") as made:
        assert made.server.address.startswith("tcp://")
        await made.combiner("west")
        assert made.tree.directory.combiners["west"].labels["address"].startswith("tcp://")
        await made.clients(2, app, below=("west",))
        assert (await made.run(app, spec(2, 2), package=False)).state is SessionState.FINISHED
        token, _ = await made.controller.issue_token(PROJECT, "ward", Role.CLIENT)
        careful = Entrance(made.server.address.removeprefix("tcp://"), token, tmp_path / "keys", made.trust, GRPC)
        with pytest.raises(ConnectionFailedError, match="does not speak TLS"):
            await careful.assigned("", {})


def test_who_joined_with_tls_goes_to_no_server_without(tmp_path: Path) -> None:
    ward = tokens.issue(tokens.new_key(), "ward", Role.CLIENT, PROJECT)[0]
    careful = Entrance("127.0.0.1:1", ward, tmp_path, tls.WORLD, GRPC)
    with pytest.raises(ConnectionFailedError, match="serves without TLS"):
        careful._place(Assignment("west", "tcp://10.0.0.7:7100"))
    open_ = Entrance("tcp://127.0.0.1:1", ward, tmp_path, tls.WORLD, GRPC)
    assert open_._place(Assignment("west", "tcp://10.0.0.7:7100")).trust is None
    assert open_._place(Assignment("west", "10.0.0.7:7100", "PEM")).trust == Trust(
        roots="PEM", name=tls.server_name(PROJECT, "west")
    )


async def test_a_certificate_of_the_operators_is_known_by_its_host_and_combiners_by_the_network(
    app: Path, tmp_path: Path
) -> None:
    cert, key = written(tmp_path / "files", CORPORATE.certify(["127.0.0.1"]))
    async with served(tmp_path, tls_cert=cert, tls_key=key) as made:
        assert made.server.address.startswith("tls://")
        known = Trust(roots=CORPORATE.certificate)
        made.trusted = known
        await made.combiner("west")
        await made.clients(2, app, below=("west",))
        assert made.tree.directory.clients["client-0"].combiner == "west"
        assert (await made.run(app, spec(2, 2), package=False)).state is SessionState.FINISHED
        token, _ = await made.controller.issue_token(PROJECT, "ward", Role.CLIENT)
        with pytest.raises(ConnectionFailedError, match="certificate that is not believed here"):
            await Entrance(made.server.address, token, tmp_path / "keys", tls.WORLD, GRPC).assigned("", {})


async def test_callers_must_show_a_certificate_where_the_operator_wants_one(tmp_path: Path) -> None:
    (tmp_path / "callers.pem").write_text(CORPORATE.certificate)
    async with served(tmp_path, tls_client_ca=tmp_path / "callers.pem") as made:
        token, _ = await made.controller.issue_token(PROJECT, "ward", Role.CLIENT)
        with pytest.raises(HansaError):
            await Entrance(made.server.address, token, tmp_path / "keys", made.trust, GRPC).assigned("", {})


def test_files_are_read_again_when_they_change_and_a_bad_pair_leaves_the_last(tmp_path: Path) -> None:
    first, second = CORPORATE.certify(["a"]), CORPORATE.certify(["b"])
    shown = FromFiles(*written(tmp_path, first))
    assert shown() == first
    written(tmp_path, second)
    assert shown() == second
    written(tmp_path, Certificate(first.chain, second.key))
    assert shown() == second
    (tmp_path / "server.key").unlink()
    assert shown() == second
    written(tmp_path, first)
    assert shown() == first


async def test_a_certificate_that_ends_soon_or_has_ended_is_told_of_each_day_until_it_is_renewed(
    tmp_path: Path,
) -> None:
    old, new = CORPORATE.certify(["a"]), CORPORATE.certify(["a"], datetime.now(UTC) + timedelta(days=90))
    shown, ends = FromFiles(*written(tmp_path, old)), expires_at(old.chain)
    now = ends - 15.5 * DAY
    told: list[tuple[str, float]] = []

    async def sleep(seconds: float) -> None:
        nonlocal now
        told.extend((line["log_level"], round((now - ends) / DAY, 2)) for line in lines if "remedy" in line)
        assert all("HANSA_TLS_CERT" in line["remedy"] for line in lines if "remedy" in line)
        lines.clear()
        now += seconds
        if now > ends + 1.5 * DAY:
            written(tmp_path, new)
        if now > ends + 20 * DAY:
            raise asyncio.CancelledError

    with capture_logs() as lines, pytest.raises(asyncio.CancelledError):
        await watch_end(shown, clock=lambda: now, sleep=sleep)
    warned = [("warning", pytest.approx(-14.0 + day, abs=0.05)) for day in range(14)]
    assert told == [*warned, ("error", 0.0), ("error", 1.0)]


async def test_a_server_tells_when_its_certificate_ends_where_operators_look(tmp_path: Path) -> None:
    """In the log when it starts, to scrapers and in the state of the system; who runs without TLS has none."""
    ended = CORPORATE.certify(["127.0.0.1"], datetime.now(UTC) - timedelta(days=91))
    chain, key = written(tmp_path / "given", ended)
    with capture_logs() as lines:
        async with served(tmp_path, tls_cert=chain, tls_key=key) as made:
            assert await made.controller.certificate_ends() == expires_at(ended.chain)
            assert (await system_state(made.controller, tmp_path)).certificate_ends == expires_at(ended.chain)
            text, _ = await Metrics(made.controller, tmp_path).text()
            while not any("remedy" in line for line in lines):  # noqa: ASYNC110 - a thread reads the files
                await asyncio.sleep(0)
    (sample,) = re.findall("^hansa_certificate_expiry_timestamp_seconds (.*)$", text.decode(), re.MULTILINE)
    assert float(sample) == expires_at(ended.chain)
    assert [line["event"] for line in lines if "remedy" in line] == [
        "the certificate has expired: whoever connects anew is refused"
    ]
    async with served(tmp_path / "plain", tls="off") as made:
        assert await made.controller.certificate_ends() is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tls_cert": "a.pem"}, "needs its key"),
        ({"tls_cert": "a.pem", "tls_key": "a.key"}, "cannot be read"),
        ({"tls_client_ca": "a.pem"}, "cannot be read"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, given: dict[str, str], said: str) -> None:
    paths = {name: tmp_path / file for name, file in given.items()}
    with pytest.raises(InputError, match=said):
        Secured.of(Settings(data=tmp_path / "data", **paths))


def test_the_authority_is_made_once_and_its_key_is_the_owners_alone(tmp_path: Path) -> None:
    first, again = (Secured.of(Settings(data=tmp_path)).authority for _ in range(2))
    assert first == again
    assert (tmp_path / "keys" / "authority.key").stat().st_mode & 0o777 == 0o600


def test_a_certificate_is_replaced_a_month_before_it_ends() -> None:
    now = [0.0]
    shown = FromAuthority(CORPORATE, [], clock=lambda: now[0])
    first = shown()
    now[0] = expires_at(first.chain) - 31 * 86_400
    assert shown() is first
    now[0] += 2 * 86_400
    assert shown() is not first


def test_a_server_is_called_by_what_it_listens_at_and_by_what_the_operator_says() -> None:
    assert names_of_host("127.0.0.1") == ["localhost", "127.0.0.1", "::1"]
    assert names_of_host("10.0.0.5", "hansa.example.org, 192.0.2.7,")[3:] == [
        "10.0.0.5",
        "hansa.example.org",
        "192.0.2.7",
    ]
    assert len(names_of_host("0.0.0.0")) > 3  # noqa: S104 - the machine's own name is added

"""The port for FEDn's clients: a token is that of one client of one project, and nobody takes a client's place."""

import io
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from federation import PROJECT, Federation, federation

from hansa.compat.fedn.formats import NUMPY, helper_of, read_model
from hansa.compat.fedn.gateway import Gateway
from hansa.errors import AuthenticationError, InputError, PermissionDeniedError
from hansa.wire.frames import Role


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Federation]:
    async with federation(tmp_path) as network:
        yield network


@pytest.fixture
async def gateway(made: Federation, tmp_path: Path) -> AsyncIterator[Gateway]:
    gateway = Gateway(
        made.controller, PROJECT, tmp_path / "fedn", join=made.server.address, trust=made.trust, silence=60.0
    )
    await gateway.open()
    yield gateway
    await gateway.aclose()


async def test_a_token_of_another_project_role_or_day_is_not_that_of_the_client_of_its_name(
    made: Federation, gateway: Gateway
) -> None:
    control = made.controller
    await control.create_project("cardiology")
    own, _ = await control.issue_token(PROJECT, "ward", Role.CLIENT)
    earlier, _ = await control.issue_token(PROJECT, "ward", Role.CLIENT)
    foreign, _ = await control.issue_token("cardiology", "ward", Role.CLIENT)
    await gateway.add("id-of-ward", "ward", own)

    assert gateway.called(own, "id-of-ward", "a").member.node == "ward"
    for token in (foreign, earlier):
        with pytest.raises(AuthenticationError, match="has not been added with this token"):
            gateway.called(token, "id-of-ward", "a")
    with pytest.raises(AuthenticationError, match="none of a client of default"):
        await gateway.add("another-id", "ward", foreign)
    with pytest.raises(AuthenticationError, match="Token is missing"):
        gateway.called("", "id-of-ward", "a")


async def test_a_member_takes_neither_the_id_nor_the_word_of_another(made: Federation, gateway: Gateway) -> None:
    ward, _ = await made.controller.issue_token(PROJECT, "ward", Role.CLIENT)
    thief, _ = await made.controller.issue_token(PROJECT, "thief", Role.CLIENT)
    guest = await gateway.add("id-of-ward", "ward", ward)
    await gateway.add("id-of-thief", "ward", thief)

    with pytest.raises(AuthenticationError, match="used by a client of another client_id"):
        await gateway.add("id-of-ward", "ward", thief)
    with pytest.raises(PermissionDeniedError, match="may not speak for"):
        gateway.called(thief, "id-of-ward", "a")
    newcomer, _ = await made.controller.issue_token(PROJECT, "newcomer", Role.CLIENT)
    with pytest.raises(AuthenticationError, match="is another client's"):
        await gateway.add("id-of-ward", "ward", newcomer)
    assert gateway.called(ward, "id-of-ward", "a") is guest


def test_a_tensor_that_claims_more_than_is_there_is_refused_before_it_is_made() -> None:
    member = io.BytesIO()
    np.lib.format.write_array_header_1_0(member, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)})
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("0.npy", member.getvalue() + bytes(80))
    with pytest.raises(InputError, match="claims the shape"):
        read_model(file, helper_of(NUMPY), 1 << 20)

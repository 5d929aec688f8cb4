"""SecAgg: shares of secrets, what a client reveals, and what one vector tells."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rounds_of_sums import chi_square, clients_of, seed_of

from hansa.errors import InputError
from hansa.protocols.secagg import SHARE_BYTES, SecAgg, recovered, shared


@given(st.binary(min_size=32, max_size=32), st.integers(1, 7), st.data())
@settings(max_examples=30, deadline=None)
def test_any_threshold_of_the_shares_recover_the_secret(secret: bytes, n: int, data: Any) -> None:
    threshold = data.draw(st.integers(1, n))
    shares = shared(secret, n, threshold, seed_of(n))
    for chosen in combinations(range(n), threshold):
        assert recovered({client: shares[client] for client in chosen}) == secret


def test_fewer_shares_than_the_threshold_fit_every_secret() -> None:
    """With two of three shares and any guess at the secret there is a polynomial: the two tell nothing."""
    prime = 2**521 - 1
    shares = shared(seed_of(9), 5, 3, seed_of(1))
    y1, y2 = (int.from_bytes(shares[client], "big") for client in (0, 1))
    for guess in (0, 1, 2**256 - 1):
        # f(0) = guess, f(1) = y1, f(2) = y2: f(3) = guess − 3·y1 + 3·y2
        third = ((guess - 3 * y1 + 3 * y2) % prime).to_bytes(66, "big")
        assert int.from_bytes(recovered({0: shares[0], 1: shares[1], 2: third}), "big") == guess


def test_a_client_reveals_the_key_of_who_left_and_the_own_mask_of_who_is_there() -> None:
    clients, _ = clients_of(SecAgg(4, 3), 1, range(4), range(4))
    told = {u: clients[u].revealed([0, 1, 2]) for u in (0, 1, 2)}
    own, masking = (
        recovered({u: each[SHARE_BYTES * of : SHARE_BYTES * (of + 1)] for u, each in told.items()}) for of in (2, 3)
    )
    assert own == clients[2]._own
    assert masking == clients[3]._masking.private_bytes_raw()


@pytest.mark.parametrize("value", [0, 1, 2**64 - 1])
def test_one_masked_vector_looks_uniform_to_who_knows_either_secret(value: int) -> None:
    hidden = np.full(100_000, value, np.uint64)
    clients, _ = clients_of(SecAgg(4, 3), len(hidden), range(4), range(4))
    seen = clients[1].masked(hidden)
    # With its key revealed, as if it had dropped out, its own mask is left; with that revealed, those of its pairs.
    pairs = clients[1]._pairs()
    assert 150 < chi_square(seen - pairs) < 360
    assert 150 < chi_square(hidden + pairs) < 360


def test_nothing_that_a_client_sends_has_its_secrets_in_it() -> None:
    clients, everybody = clients_of(SecAgg(4, 3), 1, range(4), range(4))
    sealed = b"".join(SecAgg(4, 3).client(1, 1, seed_of(1)).sealed(everybody).values())
    secrets = [clients[1]._own, clients[1]._masking.private_bytes_raw(), *clients[1]._held[0], *clients[1]._held[1]]
    assert not [secret for secret in secrets if secret in sealed]


def test_shares_that_were_changed_are_found() -> None:
    scheme = SecAgg(4, 3)
    clients, everybody = clients_of(scheme, 2, range(4), range(4))
    server = scheme.server(2, everybody, range(4))
    for u in (0, 1, 2):
        server.add(u, clients[u].masked(np.zeros(2, np.uint64)))
    revealed = {u: clients[u].revealed([0, 1, 2]) for u in (0, 1, 2)}
    with pytest.raises(InputError, match="client 1 has revealed 65 bytes, not 66 for each of 4 clients"):
        server.unmasked(revealed | {1: revealed[1][:65]})
    for at, whose in ((0, 0), (2 * 66, 2), (3 * 66 + 65, 3)):
        changed = revealed[1][:at] + bytes([revealed[1][at] ^ 1]) + revealed[1][at + 1 :]
        with pytest.raises(InputError, match=f"the shares of a secret of client {whose} do not come to it"):
            server.unmasked(revealed | {1: changed})
    np.testing.assert_array_equal(server.unmasked(revealed), [0, 0])

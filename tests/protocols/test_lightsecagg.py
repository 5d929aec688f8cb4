"""LightSecAgg: any U places of a code tell all of it, any T nothing; the sum of shares is the share of the sum."""

import tracemalloc
from collections import Counter
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rounds_of_sums import clients_of, seed_of, summed, values_of

from hansa.errors import ConfigError, InputError
from hansa.protocols import lightsecagg
from hansa.protocols.lightsecagg import PRIMES, LightSecAgg, lagrange, uniform


@pytest.mark.parametrize("prime", PRIMES)
def test_the_field_is_one_and_sums_of_its_products_fit(prime: int) -> None:
    """Fermat's test by several bases, and division by all below 2^16: a prime below 2^32."""
    assert all(prime % divisor for divisor in range(2, 2**16))
    assert (prime - 1) ** 2 < 2**64
    assert 512 * (prime - 1) * (2**11 - 1) + 2**11 * prime < 2**53
    assert PRIMES[0] * PRIMES[1] // 2 > 2**62


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 6), st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_products_are_those_of_whole_numbers(seed: int, rows: int, inner: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    for prime in (7, *PRIMES):
        matrix = rng.integers(0, prime, (rows, inner)).astype(np.uint64)
        columns = rng.integers(max(0, prime - 3), prime, (inner, width)).astype(np.uint32)
        exact = (matrix.astype(object) @ columns.astype(object)) % prime
        np.testing.assert_array_equal(lightsecagg.product(matrix, columns, prime), exact.astype(np.uint64))


def test_products_of_512_largest_numbers_are_exact_in_every_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lightsecagg, "_BLOCK", 1024)
    prime = PRIMES[0]
    found = lightsecagg.product(np.full((2, 512), prime - 1, np.uint64), np.full((512, 5), prime - 1, np.uint32), prime)
    assert (found == 512).all()  # (−1)(−1) · 512


@pytest.mark.parametrize("prime", [11, *PRIMES])
def test_lagrange_takes_values_of_a_polynomial_to_its_values_elsewhere(prime: int) -> None:
    values = [(3 * x**2 + 5 * x + 7) % prime for x in range(7)]
    found = lagrange((0, 5, 6), (1, 2, 4), prime) @ np.array([values[1], values[2], values[4]], np.uint64)
    assert [int(each) % prime for each in found] == [values[0], values[5], values[6]]


def test_a_key_gives_every_number_below_the_prime_as_often() -> None:
    """Below 3·2^30, a quarter of what is drawn is drawn again."""
    drawn = uniform(seed_of(3), 3 * 2**30, 60_000)
    counts = np.bincount(drawn >> 28, minlength=12)
    assert counts.size == 12
    assert ((counts - 5000) ** 2 / 5000).sum() < 31.3  # chi-square of 11 degrees of freedom, p = 0.001
    np.testing.assert_array_equal(drawn, uniform(seed_of(3), 3 * 2**30, 60_000))


@pytest.mark.parametrize(("n", "threshold", "colluders"), [(3, 2, 1), (4, 3, 1), (4, 3, 2), (5, 4, 2)])
def test_what_any_t_clients_hold_is_the_same_for_every_mask(n: int, threshold: int, colluders: int) -> None:
    """In the field of 11: over all random pieces, T shares take each of the 11^T values once, whatever the mask is."""
    prime, pieces = 11, threshold - colluders
    code = lagrange(range(threshold, threshold + n), range(threshold), prime)
    random = np.array(list(product(range(prime), repeat=colluders)), np.uint32).T
    for mask in [(0,) * pieces, (1,) * pieces, tuple(range(3, 3 + pieces))]:
        fixed = np.repeat(np.array(mask, np.uint32)[:, np.newaxis], random.shape[1], axis=1)
        shares = lightsecagg.product(code, np.concatenate([fixed, random]), prime)
        for some in combinations(range(n), colluders):
            seen = Counter(map(tuple, shares[list(some)].T.tolist()))
            assert len(seen) == prime**colluders
            assert set(seen.values()) == {1}
        # One more client, and the mask shows: with another mask it would have held other values.
        if pieces == 1:
            (more, *_) = combinations(range(n), threshold)
            found = lightsecagg.product(
                lagrange((0,), tuple(threshold + each for each in more), prime), shares[list(more)], prime
            )
            assert (found == mask[0]).all()


def view(values: tuple[int, int, int], colluder: int) -> Counter[tuple[int, ...]]:
    """What the server and one client see of a round of three, U = 2, T = 1, in the field of 5, over all masks.

    Each client has one number, masked by one piece; every client is present and reveals.
    """
    prime = 5
    drawn = np.array(list(product(range(prime), repeat=6)), np.uint32).T  # of client i: its mask, its random piece
    code = lagrange((2, 3, 4), (0, 1), prime)
    shares = [lightsecagg.product(code, drawn[2 * i : 2 * i + 2], prime) for i in range(3)]
    masked = [(drawn[2 * i] + values[i]) % prime for i in range(3)]
    told = [shares[i][colluder] for i in range(3)]
    own = drawn[2 * colluder : 2 * colluder + 2]
    revealed = sum(share.astype(int) for share in shares) % prime
    return Counter(map(tuple, np.concatenate([masked, told, own, revealed]).T.tolist()))


def test_the_server_and_t_clients_see_the_same_of_all_values_with_the_same_sum() -> None:
    """The theorem itself, by counting all 5^6 masks: of clients 0 and 1 they learn the sum, and nothing else."""
    seen = view((1, 3, 2), colluder=2)
    assert seen == view((0, 4, 2), colluder=2) == view((3, 1, 2), colluder=2)
    assert seen != view((1, 4, 2), colluder=2)
    assert view((2, 1, 3), colluder=0) == view((2, 3, 1), colluder=0)


def test_products_take_the_memory_of_a_block_beside_their_result() -> None:
    matrix, columns = np.ones((20, 14), np.uint64), np.ones((14, 200_000), np.uint32)
    tracemalloc.start()
    try:
        found = lightsecagg.product(matrix, columns, PRIMES[0])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (found == 14).all()
    assert found.nbytes < peak < found.nbytes + 4e6


@pytest.mark.parametrize(("n", "threshold", "colluders"), [(3, 3, 2), (4, 3, 2), (6, 4, 1), (6, 5, 4)])
def test_every_square_part_of_the_random_rows_can_be_inverted(n: int, threshold: int, colluders: int) -> None:
    """Which is what T shares being uniform rests on, in the fields that are used."""
    for prime in PRIMES:
        code = lagrange(range(threshold, threshold + n), range(threshold), prime)[:, threshold - colluders :]
        for some in combinations(range(n), colluders):
            assert _determinant([[int(each) for each in row] for row in code[list(some)]], prime)


def _determinant(rows: list[list[int]], prime: int) -> int:
    if not rows:
        return 1
    return (
        sum(
            (-1) ** at * each * _determinant([[*row[:at], *row[at + 1 :]] for row in rows[1:]], prime)
            for at, each in enumerate(rows[0])
        )
        % prime
    )


@pytest.mark.parametrize("size", [1, 2, 7, 12])
@pytest.mark.parametrize("colluders", [1, 2, 3])
def test_vectors_that_pieces_do_not_divide_are_summed_too(size: int, colluders: int) -> None:
    vectors = values_of(5, size)
    np.testing.assert_array_equal(
        summed(LightSecAgg(5, 4, colluders), vectors, [0, 1, 3, 4]), vectors[[0, 1, 3, 4]].sum(0, dtype=np.uint64)
    )


def test_sums_up_to_their_limits_are_exact() -> None:
    vectors = np.array([[2**62, -(2**62), 0], [0, 0, -1], [0, 0, 0]], np.int64).view(np.uint64)
    found = summed(LightSecAgg(3, 2, 1), vectors, range(3))
    assert found.view(np.int64).tolist() == [2**62, -(2**62), -1]


def test_a_share_is_as_many_times_smaller_as_a_mask_has_pieces() -> None:
    for colluders in (1, 2, 3):
        scheme = LightSecAgg(6, 5, colluders)
        everybody = {u: scheme.client(u, 600, seed_of(u)).public for u in range(6)}
        sealed = scheme.client(0, 600, seed_of(0)).sealed(everybody)
        assert {len(each) for each in sealed.values()} == {8 * 600 // (5 - colluders) + 16}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ((5, 4, 4), "with threshold = 4 it must be 1 to 3"),
        ((5, 4, 0), "colluders is 0"),
        ((600, 400, 100), "600 clients are more than lightsecagg can sum exactly; at most 512"),
    ],
)
def test_what_cannot_be_coded_is_refused(settings: tuple[int, int, int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        LightSecAgg(*settings)


def test_what_is_no_number_or_does_not_fit_is_refused_and_named() -> None:
    scheme = LightSecAgg(4, 3, 1)
    clients, everybody = clients_of(scheme, 4, range(4), range(4))
    server = scheme.server(4, everybody, range(4))
    for u, client in clients.items():
        server.add(u, client.masked(values_of(4, 4)[u]))
    with pytest.raises(InputError, match="client 2 has sent 4294967295, which is no number modulo 4294967291"):
        server.add(2, np.full((2, 4), 2**32 - 1, np.uint32))
    with pytest.raises(InputError, match=r"client 2 has sent float64 of shape \(2, 4\), not uint32"):
        server.add(2, np.zeros((2, 4)))
    revealed = {u: client.revealed(range(4)) for u, client in clients.items()}
    with pytest.raises(InputError, match="client 1 has revealed 8 bytes, not 8 for each of 2"):
        server.unmasked(revealed | {1: revealed[1][:8]})
    with pytest.raises(InputError, match="client 1 has sent 4294967295, which is no number"):
        server.unmasked(revealed | {1: b"\xff" * 16})
    for liar in range(4):
        changed = bytes([revealed[liar][0] ^ 1]) + revealed[liar][1:]
        with pytest.raises(InputError, match="what clients 0, 1, 2, 3 have revealed does not fit together: it is"):
            server.unmasked(revealed | {liar: changed})


@pytest.mark.parametrize("liar", range(5))
def test_with_two_to_spare_it_is_seen_who_has_revealed_something_else(liar: int) -> None:
    scheme, vectors = LightSecAgg(5, 3, 1), values_of(5, 4)
    clients, everybody = clients_of(scheme, 4, range(5), range(5))
    server = scheme.server(4, everybody, range(5))
    for u, client in clients.items():
        server.add(u, client.masked(vectors[u]))
    revealed = {u: client.revealed(range(5)) for u, client in clients.items()}
    np.testing.assert_array_equal(server.unmasked(revealed), vectors.sum(0, dtype=np.uint64))
    changed = revealed[liar][:-4] + bytes(4)
    with pytest.raises(InputError, match=f"what client {liar} has revealed does not fit together with what the others"):
        server.unmasked(revealed | {liar: changed})

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.data import partition
from hansa.errors import InputError

many = settings(derandomize=True, deadline=None, max_examples=100)

Labels = npt.NDArray[np.int64]
Partitioner = Callable[[Labels, int, np.random.Generator], list[partition.Indices]]

PARTITIONERS: dict[str, Partitioner] = {
    "iid": lambda labels, n, rng: partition.iid(len(labels), n, rng),
    "dirichlet": lambda labels, n, rng: partition.dirichlet(labels, n, 0.5, rng),
    "dirichlet_by_class": lambda labels, n, rng: partition.dirichlet_by_class(labels, n, 0.5, rng),
    "dirichlet_by_class, capped": lambda labels, n, rng: partition.dirichlet_by_class(labels, n, 0.5, rng, capped=True),
    "shards": lambda labels, n, rng: partition.shards(labels, n, rng, shards_per_client=1),
    "quantity_skew": lambda labels, n, rng: partition.quantity_skew(len(labels), n, rng),
    "natural": lambda labels, _, __: partition.natural(labels),
}


@st.composite
def requests(draw: st.DrawFn) -> tuple[Labels, int, int]:
    """Labels, a number of clients that they suffice for, and a seed."""
    labels = draw(st.lists(st.integers(0, 5), min_size=1, max_size=60))
    return np.array(labels), draw(st.integers(1, len(labels))), draw(st.integers(0, 2**32))


def _covers(parts: list[partition.Indices], num_samples: int) -> bool:
    return np.array_equal(np.sort(np.concatenate(parts)), np.arange(num_samples))


def _mixes(labels: Labels, parts: list[partition.Indices]) -> npt.NDArray[np.float64]:
    return np.array([np.bincount(labels[part], minlength=10) / len(part) for part in parts])


@pytest.mark.parametrize("name", PARTITIONERS)
@many
@given(request=requests())
def test_every_sample_has_exactly_one_owner(name: str, request: tuple[Labels, int, int]) -> None:
    labels, num_clients, seed = request
    parts = PARTITIONERS[name](labels, num_clients, np.random.default_rng(seed))
    assert _covers(parts, len(labels))
    assert len(parts) == (len(np.unique(labels)) if name == "natural" else num_clients)
    assert all(part.dtype == np.int64 and np.all(np.diff(part) > 0) for part in parts)


@pytest.mark.parametrize("name", PARTITIONERS)
@many
@given(request=requests())
def test_the_same_seed_gives_the_same_partition(name: str, request: tuple[Labels, int, int]) -> None:
    labels, num_clients, seed = request
    first, second = (PARTITIONERS[name](labels, num_clients, np.random.default_rng(seed)) for _ in range(2))
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(first, second, strict=True))


@pytest.mark.parametrize("name", sorted(PARTITIONERS.keys() - {"natural"}))
def test_another_seed_gives_another_partition(name: str) -> None:
    labels = np.arange(600) % 10
    first, second = (PARTITIONERS[name](labels, 6, np.random.default_rng(seed)) for seed in (0, 1))
    assert any(not np.array_equal(mine, theirs) for mine, theirs in zip(first, second, strict=True))


@pytest.mark.parametrize("name", sorted(PARTITIONERS.keys() - {"natural"}))
def test_more_clients_than_samples_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="3 samples cannot be shared among 4 clients"):
        PARTITIONERS[name](np.arange(3), 4, np.random.default_rng(0))
    with pytest.raises(InputError, match="number of clients is 0"):
        PARTITIONERS[name](np.arange(3), 0, np.random.default_rng(0))


@many
@given(alpha=st.floats(1e-9, 1e9), seed=st.integers(0, 100))
def test_dirichlet_holds_for_every_alpha(alpha: float, seed: int) -> None:
    labels = np.repeat(np.arange(4), [1, 10, 50, 39])
    for function in (partition.dirichlet, partition.dirichlet_by_class):
        assert _covers(function(labels, 7, alpha, np.random.default_rng(seed)), 100)


def test_dirichlet_with_a_large_alpha_is_nearly_iid_and_with_a_small_one_nearly_pure() -> None:
    labels = np.arange(20_000) % 10
    rng = np.random.default_rng(0)
    even = _mixes(labels, partition.dirichlet(labels, 10, 1e6, rng))
    # a share of 2,000 draws has the deviation √(0.1·0.9/2000) = 0.0067; the last of ten clients, three times that
    assert np.abs(even - 0.1).mean() < 0.0067 * 2
    assert np.abs(even - 0.1).max() < 0.0067 * 12
    pure = _mixes(labels, partition.dirichlet(labels, 100, 1e-3, rng))
    assert np.median(pure.max(axis=1)) > 0.99


def test_dirichlet_gives_equal_sizes_and_the_spread_of_its_alpha() -> None:
    labels = np.arange(200_000) % 10
    parts = partition.dirichlet(labels, 1000, 0.5, np.random.default_rng(0))
    assert {len(part) for part in parts} == {200}
    shares = _mixes(labels, parts)
    # Dir(0.5, ten times): variance of a share 0.1·0.9/(5 + 1) = 0.015, plus 0.1·0.9·(5/6)/200 of the multinomial draw
    assert shares.var() == pytest.approx(0.015 + 0.000375, rel=0.05)


def test_dirichlet_follows_the_frequencies_of_unbalanced_labels() -> None:
    labels = np.repeat([0, 1], [9_000, 1_000])
    shares = _mixes(labels, partition.dirichlet(labels, 10, 1e6, np.random.default_rng(0)))
    assert np.abs(shares[:, 0] - 0.9).max() < 0.05


def test_dirichlet_by_class_with_a_large_alpha_gives_equal_parts_of_each_label() -> None:
    labels = np.arange(10_000) % 10
    parts = partition.dirichlet_by_class(labels, 10, 1e8, np.random.default_rng(0))
    counts = np.array([np.bincount(labels[part]) for part in parts])
    assert np.abs(counts - 100).max() <= 1


def test_dirichlet_by_class_draws_again_until_the_smallest_client_is_large_enough() -> None:
    labels = np.arange(1000) % 10
    without = partition.dirichlet_by_class(labels, 10, 0.1, np.random.default_rng(3))
    assert min(len(part) for part in without) < 20
    parts = partition.dirichlet_by_class(labels, 10, 0.1, np.random.default_rng(3), min_size=20)
    assert min(len(part) for part in parts) >= 20
    with pytest.raises(InputError, match="need 2000, but there are 1000"):
        partition.dirichlet_by_class(labels, 10, 0.1, np.random.default_rng(3), min_size=200)
    with pytest.raises(InputError, match=r"1000 draws at alpha = 0\.001"):
        partition.dirichlet_by_class(labels, 10, 1e-3, np.random.default_rng(3), min_size=100)


def test_dirichlet_by_class_capped_gives_nothing_more_to_a_full_client() -> None:
    labels = np.repeat(np.arange(10), 100)
    parts = partition.dirichlet_by_class(labels, 5, 0.05, np.random.default_rng(0), capped=True)
    for part in parts:
        before_the_last_label = len(part) - np.bincount(labels[part])[labels[part].max()]
        assert before_the_last_label < 200


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf"), 1e-300])
def test_an_alpha_that_is_no_positive_number_is_refused(alpha: float) -> None:
    for function in (partition.dirichlet, partition.dirichlet_by_class):
        with pytest.raises(InputError, match="alpha is"):
            function(np.arange(10), 2, alpha, np.random.default_rng(0))


def test_two_shards_of_sorted_labels_give_at_most_two_labels() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 60))
    parts = partition.shards(labels, 10, np.random.default_rng(1))
    assert {len(part) for part in parts} == {60}
    assert all(len(np.unique(labels[part])) <= 2 for part in parts)
    with pytest.raises(InputError, match="10 clients × 61 shards are 610, but there are 600"):
        partition.shards(labels, 10, np.random.default_rng(1), shards_per_client=61)
    with pytest.raises(InputError, match="shards_per_client is 0"):
        partition.shards(labels, 10, np.random.default_rng(1), shards_per_client=0)


@many
@given(
    num_clients=st.integers(1, 20),
    labels_per_client=st.integers(1, 6),
    num_labels=st.integers(1, 6),
    seed=st.integers(0),
)
def test_label_count_gives_each_client_exactly_its_number_of_labels(
    num_clients: int, labels_per_client: int, num_labels: int, seed: int
) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(num_labels), 25))
    rng = np.random.default_rng(seed)
    if labels_per_client > num_labels or num_clients * labels_per_client < num_labels:
        with pytest.raises(InputError, match="labels"):
            partition.label_count(labels, num_clients, labels_per_client, rng)
        return
    parts = partition.label_count(labels, num_clients, labels_per_client, rng)
    assert _covers(parts, len(labels))
    assert all(len(np.unique(labels[part])) == labels_per_client for part in parts)
    owners = [sum(bool(np.any(labels[part] == label)) for part in parts) for label in range(num_labels)]
    assert max(owners) - min(owners) <= 1


def test_label_count_refuses_a_label_with_fewer_samples_than_owners() -> None:
    with pytest.raises(InputError, match="a label with 1 samples has 5 owners"):
        partition.label_count(np.array([0] * 9 + [1]), 5, 2, np.random.default_rng(0))


def test_quantity_skew_follows_the_power_law() -> None:
    parts = partition.quantity_skew(2830, 4, np.random.default_rng(0), exponent=1.0, min_size=100)
    # 2830 − 400 = 2430 spare, shared 12 : 6 : 4 : 3 of 25
    assert sorted(len(part) for part in parts) == [100 + 292, 100 + 389, 100 + 583, 100 + 1166]
    equal = partition.quantity_skew(2830, 4, np.random.default_rng(0), exponent=0.0)
    assert sorted(len(part) for part in equal) == [707, 707, 708, 708]


@pytest.mark.parametrize(
    ("setting", "match"),
    [({"exponent": -1.0}, "exponent is -1"), ({"min_size": 4}, "0 to 3"), ({"min_size": -1}, "min_size is -1")],
)
def test_quantity_skew_refuses_what_cannot_be(setting: dict[str, float], match: str) -> None:
    with pytest.raises(InputError, match=match):
        partition.quantity_skew(10, 3, np.random.default_rng(0), **setting)  # type: ignore[arg-type]


def test_natural_gives_each_owner_its_samples_in_the_order_of_their_ids() -> None:
    parts = partition.natural(["b", "a", "b", "c", "a"])
    assert [part.tolist() for part in parts] == [[1, 4], [0, 2], [3]]
    with pytest.raises(InputError, match="no samples"):
        partition.natural([])
    with pytest.raises(InputError, match=r"shape \(2, 2\)"):
        partition.natural(np.zeros((2, 2)))


def test_feature_noise_grows_with_the_client_and_keeps_shape_and_dtype() -> None:
    x = np.zeros((1000, 8), np.float32)
    noisy = [partition.feature_noise(x, client, 4, 0.16, np.random.default_rng(client)) for client in range(4)]
    assert {(array.shape, array.dtype) for array in noisy} == {((1000, 8), np.dtype(np.float32))}
    assert [float(array.std()) for array in noisy] == pytest.approx([0.2, 0.2828, 0.3464, 0.4], rel=0.03)
    assert np.array_equal(partition.feature_noise(x, 3, 4, 0.0, np.random.default_rng(0)), x)
    assert not x.any()


def test_feature_noise_refuses_what_cannot_be() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="floating"):
        partition.feature_noise(np.zeros(3, np.uint8), 0, 1, 0.1, rng)
    with pytest.raises(InputError, match="client is 4; it must be 0 to 3"):
        partition.feature_noise(np.zeros(3), 4, 4, 0.1, rng)
    with pytest.raises(InputError, match=r"variance is -0\.1"):
        partition.feature_noise(np.zeros(3), 0, 4, -0.1, rng)


def test_clusters_of_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(InputError, match="x has values that are not finite"):
        partition.clusters(np.array([[0.0, np.nan], [1.0, 2.0]]), 2, np.random.default_rng(0))


def test_a_value_too_many_is_told_the_options_there_are() -> None:
    with pytest.raises(InputError, match="iid:3 has a value too many; its options are min_size"):
        partition.partition("iid:3", [0, 1], 2, np.random.default_rng(0))

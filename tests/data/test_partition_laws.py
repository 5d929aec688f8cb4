"""What is true of every registered partition, and how they are named."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.data import mnist, partition, synthetic
from hansa.errors import InputError

many = settings(derandomize=True, deadline=None, max_examples=25)

OPTIONS = {
    "iid": "",
    "dirichlet": "0.5",
    "dirichlet_by_class": "0.5",
    "shards": "1",
    "similarity": "0.3",
    "label_count": "1",
    "label_lognormal": "1",
    "pachinko": "",
    "quantity_skew": "1.5",
    "quantity_dirichlet": "0.1",
    "quantity_lognormal": "2",
    "clusters": "iterations=5",
    "octants": "",
    "natural": "",
    "grouped": "",
}
"""Every registered scheme → options that most requests can meet."""


@dataclass(frozen=True)
class Request:
    labels: npt.NDArray[np.int64]
    owners: npt.NDArray[np.int64]
    num_clients: int
    seed: int

    def parts(self, name: str, *options: str) -> partition.Partition:
        """The scheme on data that have all that it may need."""
        x = np.random.default_rng(99).normal(size=(len(self.labels), 3))
        scheme = ":".join(filter(None, [name, ",".join(filter(None, [OPTIONS[name], *options]))]))
        return partition.partition(
            scheme,
            self.labels,
            len(np.unique(self.owners)) if name == "natural" else self.num_clients,
            np.random.default_rng(self.seed),
            x=x,
            owners=self.owners,
            coarse=self.labels // 2,
        )

    def must_be_met(self, name: str) -> bool:
        """Whether no draw of the scheme may refuse it."""
        counts = np.unique_counts(self.labels).counts
        match name:
            case "label_count" | "label_lognormal":  # each label needs an owner, and each owner one of its samples
                return self.num_clients >= len(counts) and -(-self.num_clients // len(counts)) <= counts.min()
            case "octants":
                return self.num_clients % 4 == 0
            case "grouped":
                return self.num_clients <= len(np.unique(self.owners))
        return True


@st.composite
def requests(draw: st.DrawFn) -> Request:
    labels = draw(st.lists(st.integers(0, 5), min_size=1, max_size=60))
    owners = draw(st.lists(st.integers(0, 9), min_size=len(labels), max_size=len(labels)))
    return Request(np.array(labels), np.array(owners), draw(st.integers(1, len(labels))), draw(st.integers(0, 2**32)))


def covers(parts: partition.Partition, num_samples: int) -> bool:
    return np.array_equal(np.sort(np.concatenate(list(parts))), np.arange(num_samples))


def test_every_registered_scheme_is_tried_and_every_alias_is_one() -> None:
    assert sorted(OPTIONS) == sorted(partition.SCHEMES)
    labels, owners = np.arange(400) % 10, np.arange(400) // 10
    for alias in partition.ALIASES:
        parts = partition.partition(alias, labels, 10, np.random.default_rng(0), owners=owners)
        assert covers(parts, 400), alias
    for function in partition.SCHEMES.values():
        assert function.__doc__


@pytest.mark.parametrize("name", OPTIONS)
@many
@given(request=requests())
def test_every_sample_has_one_owner_and_the_same_one_again(name: str, request: Request) -> None:
    try:
        parts = request.parts(name)
    except InputError:
        assert not request.must_be_met(name)
        return
    assert covers(parts, len(request.labels))
    assert name == "natural" or len(parts) == request.num_clients
    assert all(part.dtype == np.int64 and np.all(np.diff(part) > 0) for part in parts)
    assert np.array_equal(parts.sizes, [len(part) for part in parts])
    assert np.array_equal(parts.owners, request.parts(name).owners)


@pytest.mark.parametrize("name", sorted(OPTIONS.keys() - {"natural", "dirichlet_by_class"}))
@many
@given(request=requests(), min_size=st.integers(1, 6))
def test_every_scheme_keeps_to_a_least_size(name: str, request: Request, min_size: int) -> None:
    possible = min_size * request.num_clients <= len(request.labels)
    try:
        parts = request.parts(name, f"min_size={min_size}")
    except InputError:
        assert not (possible and request.must_be_met(name))
        return
    assert possible
    assert covers(parts, len(request.labels))
    assert parts.sizes.min() >= min_size


@many
@given(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=12), least=st.integers(0, 10), seed=st.integers(0, 9))
def test_topping_up_moves_no_more_than_it_must(sizes: list[int], least: int, seed: int) -> None:
    owners = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    before = partition.Partition(owners, len(sizes))
    if least * len(sizes) > sum(sizes):
        with pytest.raises(InputError, match="min_size"):
            partition.at_least(before, least, np.random.default_rng(seed))
        return
    after = partition.at_least(before, least, np.random.default_rng(seed))
    assert int(np.count_nonzero(after.owners != owners)) == sum(max(least - size, 0) for size in sizes)
    givers = after.sizes < before.sizes
    assert not givers.any() or after.sizes[givers].max() - after.sizes[givers].min() <= 1
    assert after.sizes.max() <= max(after.sizes[givers].max(initial=0) + 0, before.sizes[~givers].max(initial=0), least)


@pytest.mark.parametrize(
    ("scheme", "match"),
    [
        ("dirichlet", r"needs alpha: write dirichlet:ALPHA"),
        ("dirchlet:1", r"there is no partition 'dirchlet'; .*; do you mean dirichlet\?"),
        ("zipf:1", r"there is no partition 'zipf'; there is: iid, dirichlet"),
        ("shards:two", r"shards_per_client is 'two'; it must be a whole number"),
        ("shards:2,3", "a value too many; its options are shards_per_client"),
        ("shards:2,shards_per_client=3", "gives shards_per_client twice"),
        ("dirichlet:0.5,beta=1", "no option 'beta'; it has: alpha, min_size"),
        ("dirichlet_by_class:0.5,capped=maybe", "must be true or false"),
        ("natural", "needs owners"),
        ("pachinko", "needs coarse"),
        ("clusters", "needs x"),
    ],
)
def test_a_name_that_cannot_be_used_says_what_can(scheme: str, match: str) -> None:
    with pytest.raises(InputError, match=match):
        partition.partition(scheme, np.arange(10), 2, np.random.default_rng(0))


def test_a_name_means_the_function() -> None:
    labels = np.arange(100) % 10
    rng = np.random.default_rng
    by_name = partition.partition("dirichlet_by_class:0.5,min_size=3,capped=true", labels, 5, rng(1))
    called = partition.dirichlet_by_class(labels, 5, 0.5, rng(1), min_size=3, capped=True)
    assert np.array_equal(by_name.owners, called.owners)
    with pytest.raises(InputError, match="4 owners, and so many clients, not 3"):
        partition.partition("natural", labels, 3, rng(0), owners=labels % 4)
    with pytest.raises(InputError, match="x has 9 samples, but there are 100 labels"):
        partition.partition("clusters", labels, 3, rng(0), x=np.zeros((9, 2)))


def test_a_partition_is_a_sequence() -> None:
    parts = partition.Partition([1, 0, 1, 2], 4)
    assert [part.tolist() for part in parts] == [[1], [0, 2], [3], []]
    assert parts[-1].tolist() == []
    assert [part.tolist() for part in parts[1:3]] == [[0, 2], [3]]
    assert (len(parts), parts.num_samples, parts.sizes.tolist()) == (4, 4, [1, 2, 1, 0])
    with pytest.raises(IndexError, match="there is no client 4"):
        parts[4]


# ── what the papers say ──────────────────────────────────────────────────────────────────────────────────────────────


def test_similarity_is_between_one_piece_each_and_iid() -> None:
    labels = np.arange(1000) % 10
    pure = partition.similarity(labels, 10, np.random.default_rng(0), share=0.0)
    assert all(len(np.unique(labels[part])) == 1 for part in pure)
    half = partition.similarity(labels, 10, np.random.default_rng(0), share=0.5)
    # half of 100 are of one label, and of the other half a tenth
    assert [int(np.bincount(labels[part]).max()) for part in half] == pytest.approx([55] * 10, abs=8)
    with pytest.raises(InputError, match=r"share is 1\.5"):
        partition.similarity(labels, 10, np.random.default_rng(0), share=1.5)


def test_label_lognormal_gives_two_labels_each_and_a_heavy_tail() -> None:
    labels = np.arange(20_000) % 10
    parts = partition.label_lognormal(labels, 100, 2, np.random.default_rng(0), sigma=2.0)
    assert {len(np.unique(labels[part])) for part in parts} == {2}
    assert parts.sizes.max() > 10 * np.median(parts.sizes)


def test_quantity_schemes_have_the_spread_of_their_law() -> None:
    lognormal = partition.quantity_lognormal(10**6, 2000, np.random.default_rng(0), sigma=0.3, min_size=0)
    assert np.log(lognormal.sizes).std() == pytest.approx(0.3, rel=0.05)
    dirichlet = partition.quantity_dirichlet(10**6, 1000, np.random.default_rng(0), alpha=0.5, min_size=0)
    # Dir(0.5, a thousand times): variance of a share 0.001·0.999/501
    assert (dirichlet.sizes / 1e6).var() == pytest.approx(0.001 * 0.999 / 501, rel=0.15)
    with pytest.raises(InputError, match="sigma is -1"):
        partition.quantity_lognormal(10, 2, np.random.default_rng(0), sigma=-1)


def test_pachinko_mixes_few_coarse_labels_and_all_that_are_under_them() -> None:
    fine = np.arange(50_000) % 100
    parts = partition.pachinko(fine, fine // 5, 500, np.random.default_rng(0), alpha=0.1, beta=10.0)
    assert set(parts.sizes.tolist()) == {100}
    first = [np.bincount(fine[part] // 5, minlength=20) for part in parts]
    # Dir(0.1, twenty times): the mean of Σ q² is (0.1 + 1)/(20·0.1 + 1), which those who come late dilute
    assert np.mean([(counts / 100) @ (counts / 100) for counts in first]) == pytest.approx(1.1 / 3, rel=0.1)
    under = np.array([np.count_nonzero(np.bincount(fine[part], minlength=100)) for part in parts])
    assert np.median(under) > 10
    with pytest.raises(InputError, match="the label 0 is under two coarse labels"):
        partition.pachinko([0, 0], [1, 2], 1, np.random.default_rng(0))
    with pytest.raises(InputError, match="2 labels and 1 coarse"):
        partition.pachinko([0, 0], [1], 1, np.random.default_rng(0))


def test_clusters_find_the_regions_that_there_are() -> None:
    rng = np.random.default_rng(0)
    region = rng.integers(0, 5, 2000)
    x = rng.normal(size=(2000, 2)) * 0.1 + 10 * np.stack([region, region % 2], axis=1)
    parts = partition.clusters(x, 5, np.random.default_rng(1))
    assert sorted(int(region[part][0]) for part in parts) == list(range(5))
    assert all(len(np.unique(region[part])) == 1 for part in parts)
    same = partition.clusters(np.zeros((6, 2)), 3, np.random.default_rng(0), min_size=2)
    assert same.sizes.tolist() == [2, 2, 2]
    with pytest.raises(InputError, match="give numbers, shape"):
        partition.clusters(np.zeros(6), 3, np.random.default_rng(0))


def test_octants_are_fcube() -> None:
    examples = synthetic.cube(4000, seed=0)
    assert np.array_equal(examples.y, examples.x[:, 0] > 0)
    assert np.abs(examples.x).max() <= 1
    parts = partition.octants(examples.x, 4, np.random.default_rng(0))
    for part in parts:
        octants = np.unique(examples.x[part] > 0, axis=0)
        assert len(octants) == 2
        assert np.array_equal(octants[0], ~octants[1])
        assert examples.y[part].mean() == pytest.approx(0.5, abs=0.06)
    eight = partition.octants(examples.x, 8, np.random.default_rng(0))
    assert [len(np.unique(examples.x[part] > 0, axis=0)) for part in eight] == [2] * 8
    for broken, match in ((examples.x[:, :2], "of three"), (examples.x[:3], "3 samples cannot be shared among 4")):
        with pytest.raises(InputError, match=match):
            partition.octants(broken, 4, np.random.default_rng(0))
    with pytest.raises(InputError, match="4, 8, 12"):
        partition.octants(examples.x, 6, np.random.default_rng(0))


def test_a_long_tail_falls_by_its_factor() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 500))
    kept = partition.long_tail(labels, 100, np.random.default_rng(0))
    counts = np.bincount(labels[kept])
    # 500 · 100^(−k/9)
    assert counts.tolist() == [500, 299, 179, 107, 64, 38, 23, 13, 8, 5]
    assert np.all(np.diff(kept) > 0)
    steps = np.bincount(labels[partition.long_tail(labels, 10, np.random.default_rng(0), kind="step")])
    assert steps.tolist() == [500] * 5 + [50] * 5
    assert len(partition.long_tail(labels, 1, np.random.default_rng(0))) == 5000
    for factor, kind, match in ((0.5, "step", "factor is"), (10, "linear", "kind is 'linear'")):
        with pytest.raises(InputError, match=match):
            partition.long_tail(labels, factor, np.random.default_rng(0), kind=kind)


def test_the_shards_of_mnist_are_those_of_the_paper(shared_data: Path) -> None:
    labels = mnist.read(shared_data / "mnist").train.y
    parts = partition.partition("pathological", labels, 100, np.random.default_rng(0))
    assert set(parts.sizes.tolist()) == {600}
    assert np.mean([len(np.unique(labels[part])) for part in parts]) < 2.3

import numpy as np
import pytest

from hansa.data import Examples, Split
from hansa.data.examples import joined, pooled
from hansa.data.sharing import Shares
from hansa.errors import InputError

LABELS = np.repeat(np.arange(4), 30)


def test_a_split_is_shared_but_for_its_test() -> None:
    x = np.arange(120)[:, None]
    shares = Shares(Split(Examples(x, LABELS), Examples(x[:5], LABELS[:5])))
    assert shares.clients is None
    assert shares.test is not None
    assert len(shares.test.y) == 5
    mine = [shares.of(k, 7, "iid", 0).x[:, 0] for k in range(7)]
    assert sorted(np.concatenate(mine).tolist()) == list(range(120))


def test_each_clients_own_data_stay_as_they_are() -> None:
    own = {"north": (np.zeros((2, 1)), np.zeros(2)), "south": (np.ones((3, 1)), np.ones(3))}
    shares = Shares(own)
    assert shares.clients == 2
    assert shares.of(1, 2, "iid", 0) is own["south"]
    with pytest.raises(InputError, match="data of 2 clients, not of 3"):
        shares.of(1, 3, "iid", 0)


def test_other_data_are_refused() -> None:
    with pytest.raises(InputError, match="data is a str: give a Split"):
        Shares("mnist")
    with pytest.raises(InputError, match="no client"):
        Shares([])


def test_targets_of_any_shape_are_shared_by_what_looks_at_no_labels() -> None:
    masks = np.arange(120 * 4).reshape(120, 2, 2)
    shares = Shares((np.arange(120)[:, None], masks))
    for scheme in ("iid", "quantity_skew:1.2"):
        mine = [shares.of(k, 5, scheme, 0).y[:, 0, 0] // 4 for k in range(5)]
        assert sorted(np.concatenate(mine).tolist()) == list(range(120))
    with pytest.raises(
        InputError, match=r"dirichlet is by labels, .* targets are of the shape \(120, 2, 2\): take iid"
    ):
        shares.of(0, 5, "dirichlet:0.5", 0)
    with pytest.raises(InputError, match=r"shards is by labels, .* targets are fractions"):
        Shares((np.arange(120), np.linspace(0, 1, 120))).of(0, 5, "shards:2", 0)


def test_several_inputs_by_name_are_shared_joined_and_held_out_together() -> None:
    x = {"left": np.arange(120)[:, None], "right": list(range(120))}
    shares = Shares((x, LABELS))
    mine = [shares.of(k, 3, "dirichlet:1.0", 0, 0.25) for k in range(3)]
    for examples in (part for split in mine for part in (split.train, split.test)):
        assert np.array_equal(examples.x["left"][:, 0], examples.x["right"])
        assert np.array_equal(LABELS[examples.x["right"]], examples.y)
    together = pooled(mine)
    assert sorted([*together.train.x["right"], *together.test.x["right"]]) == list(range(120))
    with pytest.raises(InputError, match="different inputs cannot be pooled: left; one array"):
        joined([Examples(np.zeros(2), LABELS[:2]), Examples({"left": np.zeros(2)}, LABELS[:2])])
    with pytest.raises(InputError, match="the partition clusters needs x: give x="):
        shares.of(0, 3, "clusters", 0)


def test_inputs_without_targets_are_told() -> None:
    for inputs in (np.zeros(4), {"ids": np.zeros(4)}):
        with pytest.raises(InputError, match="a pair of something without a length: give inputs and targets"):
            Shares((inputs, None))


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ((np.zeros(4), np.zeros(4)), "give several inputs of an example by name, as a mapping"),
        ({"ids": np.zeros(4), "mask": np.zeros(3)}, "data has 3 inputs 'mask' and 4 targets"),
        ({"ids": [[1], [2, 3], [4], [5]]}, "rows of several lengths: fill them up to one"),
    ],
    ids=["tuple", "fewer", "lengths"],
)
def test_inputs_that_are_none_are_told_what_to_be(inputs: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Shares((inputs, np.zeros(4)))


def test_two_parts_of_one_data_set_are_not_taken_for_two_clients() -> None:
    part = (np.zeros((4, 1)), np.zeros(4))
    with pytest.raises(InputError, match=r"give Split\(train, test\)"):
        Shares({"train": part, "test": part})


def test_a_data_set_of_items_is_told_how_to_become_examples() -> None:
    class Items:
        def __len__(self) -> int:
            return 4

        def __getitem__(self, place: int) -> tuple[float, int]:
            return 0.0, place

    with pytest.raises(InputError, match="from_torchvision of any data set with items"):
        Shares(Items())


def test_columns_of_a_table_are_taken_by_their_places_whatever_their_index() -> None:
    class Column:
        """As a Series of pandas: [] is by the index, which is shuffled here, and to_numpy may copy all that it has."""

        def __init__(self, values: np.ndarray) -> None:
            self._values = values

        @property
        def iloc(self) -> "ByPlace":
            return ByPlace(self._values)

        def __len__(self) -> int:
            return len(self._values)

        def __getitem__(self, labels: object) -> object:
            raise AssertionError(labels)

        def to_numpy(self) -> np.ndarray:
            assert len(self._values) == 2
            return self._values

    class ByPlace:
        def __init__(self, values: np.ndarray) -> None:
            self._values = values

        def __getitem__(self, places: np.ndarray) -> Column:
            return Column(self._values[places])

    examples = Examples(np.arange(4), Column(np.arange(4) * 10))  # type: ignore[arg-type]  # it is a table's column
    assert examples.take(np.array([2, 0])).y.tolist() == [20, 0]

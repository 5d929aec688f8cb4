"""Data sets of other libraries, with the libraries themselves where they are installed."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from hansa.data import adapters
from hansa.errors import InputError


class Listed:
    """A map-style data set of hansa's own."""

    def __init__(self, shapes: list[tuple[int, ...]]) -> None:
        self._shapes = shapes
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self._shapes)

    def __getitem__(self, place: int) -> tuple[np.ndarray, int]:
        self.read.append(place)
        return np.full(self._shapes[place], place), place % 3


def test_any_map_style_data_set_is_read_item_by_item() -> None:
    data = Listed([(2, 2)] * 5)
    examples = adapters.from_torchvision(data, [4, 1])
    assert (examples.x[:, 0, 0].tolist(), examples.y.tolist(), data.read) == ([4, 1], [1, 1], [4, 1])
    assert adapters.from_torchvision(data).x.shape == (5, 2, 2)
    with pytest.raises(InputError, match=r"\(2, 2\) and \(3, 3\); give it a transform"):
        adapters.from_torchvision(Listed([(2, 2), (3, 3)]))
    with pytest.raises(InputError, match="at least one index"):
        adapters.from_torchvision(data, [])


def test_targets_of_a_regression_stay_what_they_are() -> None:
    items = [(np.zeros(2), 0.5), (np.ones(2), 1.5)]
    assert adapters.from_torchvision(items).y.tolist() == [0.5, 1.5]
    masks = [(np.zeros(2), np.eye(2, dtype=np.uint8))] * 3
    assert adapters.from_torchvision(masks).y.shape == (3, 2, 2)


def test_items_with_several_inputs_by_name_are_examples_of_such() -> None:
    items = [({"image": np.full((2, 2), k), "age": k}, k % 2) for k in range(3)]
    examples = adapters.from_torchvision(items)
    assert {name: array.shape for name, array in examples.x.items()} == {"image": (3, 2, 2), "age": (3,)}
    assert examples.x["age"].tolist() == [0, 1, 2]


def idx(file: Path, values: np.ndarray) -> None:
    head = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    file.write_bytes(head + values.astype(np.uint8).tobytes())
    (file.parent / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchvision(tmp_path: Path) -> None:
    try:
        import torchvision  # noqa: PLC0415 - not everywhere
    except (ImportError, RuntimeError) as error:  # where its wheel was built for another PyTorch
        pytest.skip(f"torchvision cannot be loaded: {error}")
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for which, count in (("train", 6), ("t10k", 2)):
        idx(raw / f"{which}-images-idx3-ubyte", np.arange(count * 784).reshape(count, 28, 28) % 256)
        idx(raw / f"{which}-labels-idx1-ubyte", np.arange(count))
    mnist = torchvision.datasets.MNIST(tmp_path, train=True)
    examples = adapters.from_torchvision(mnist)
    assert (examples.x.shape, examples.x.dtype, examples.y.tolist()) == ((6, 28, 28), np.uint8, [0, 1, 2, 3, 4, 5])
    scaled = torchvision.datasets.MNIST(tmp_path, train=True, transform=torchvision.transforms.ToTensor())
    again = adapters.from_torchvision(scaled, [5])
    assert (again.x.shape, again.x.dtype, again.y.tolist()) == ((1, 1, 28, 28), np.float32, [5])
    assert np.array_equal(np.rint(again.x[0, 0] * 255), examples.x[5])
    fake = torchvision.datasets.FakeData(4, (3, 8, 8), 5)
    assert adapters.from_torchvision(fake).x.shape == (4, 8, 8, 3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_hugging_face(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    pil = pytest.importorskip("PIL.Image")
    pictures = [pil.fromarray(np.full((4, 4, 3), k, np.uint8)) for k in range(6)]
    table = {"image": pictures, "label": [0, 1, 2, 0, 1, 2], "who": list("babcab"), "text": list("uvwxyz")}
    features = datasets.Features(
        image=datasets.Image(),
        label=datasets.ClassLabel(3),
        who=datasets.Value("string"),
        text=datasets.Value("string"),
    )
    datasets.Dataset.from_dict(table, features=features).save_to_disk(tmp_path / "made")
    loaded = datasets.load_from_disk(tmp_path / "made")
    everything = adapters.from_hugging_face(loaded, "image", "label")
    assert (everything.x.shape, everything.y.tolist()) == ((6, 4, 4, 3), table["label"])
    owners = adapters.from_hugging_face(loaded, "image", "label", client="who", test_fraction=0)
    assert list(owners) == ["a", "b", "c"]
    assert owners["b"].train.x[:, 0, 0, 0].tolist() == [0, 2, 5]
    assert owners["b"].train.y.tolist() == [0, 2, 2]
    words = adapters.from_hugging_face(loaded, "text", "label", client="who", test_fraction=0)
    assert words["a"].train.x.tolist() == ["v", "y"]
    both = adapters.from_hugging_face(loaded, ["image", "text"], "label", client="who", test_fraction=0)["a"].train
    assert (both.x["image"].shape, both.x["text"].tolist()) == ((2, 4, 4, 3), ["v", "y"])
    for x in ("colour", ["image", "colour"]):
        with pytest.raises(InputError, match="no column 'colour'; it has image, label, who, text"):
            adapters.from_hugging_face(loaded, x, "label")

"""Model files of FEDn's helpers."""

import io
import zipfile

import ml_dtypes
import numpy as np
import pytest
from fedn_fleet import npz, tensors_of

from hansa.arrays import Arrays
from hansa.compat.fedn import formats
from hansa.compat.fedn.formats import Helper, helper_names, helper_of
from hansa.errors import ConfigError, InputError

MODEL = Arrays(
    {
        "w": np.arange(6, dtype=np.float32).reshape(2, 3) / 8,
        "scale": np.float64(0.5),
        "steps": np.array(7, np.int64),
        "half": np.array([1.5, -2], ml_dtypes.bfloat16),
    }
)
NUMPY, BINARY, ANDROID = map(helper_of, ("numpyhelper", "binaryhelper", "androidhelper"))


def read_model(data: bytes, helper: Helper, limit: int) -> Arrays:
    return formats.read_model(io.BytesIO(data), helper, limit)


def read_update(data: bytes, helper: Helper, model: Arrays) -> Arrays:
    return formats.read_update(io.BytesIO(data), helper, model)


def write_model(model: Arrays, helper: Helper) -> bytes:
    file = io.BytesIO()
    formats.write_model(model, helper, file)
    return file.getvalue()


@pytest.mark.parametrize("name", ["numpyhelper", "binaryhelper", "androidhelper"])
def test_a_model_comes_back_as_it_went_out(name: str) -> None:
    helper = helper_of(name)
    assert read_update(write_model(MODEL, helper), helper, MODEL) == MODEL


def test_deflated_and_stored_files_say_the_same() -> None:
    tensors = [np.ones((2, 2), np.float32), np.arange(3)]
    stored = io.BytesIO()
    np.savez(stored, **{"0": tensors[0], "1": tensors[1]})
    assert read_model(npz(tensors), NUMPY, 1000) == read_model(stored.getvalue(), NUMPY, 1000)
    assert list(read_model(npz(tensors), NUMPY, 1000)) == ["0", "1"]


def test_big_endian_numbers_are_the_same_numbers() -> None:
    read = read_update(npz([np.array([1.5, 2], ">f4")]), NUMPY, Arrays({"w": np.zeros(2, np.float32)}))
    assert read["w"].tolist() == [1.5, 2]


def test_more_than_ten_tensors_keep_their_order() -> None:
    tensors = [np.full(1, k, np.float32) for k in range(12)]
    assert [float(each[0]) for each in read_model(npz(tensors), NUMPY, 1000).values()] == list(map(float, range(12)))
    written = write_model(read_model(npz(tensors), NUMPY, 1000), NUMPY)
    assert [float(each[0]) for each in tensors_of(written)] == list(map(float, range(12)))


def test_a_flat_file_is_split_by_the_models_shapes() -> None:
    flat = np.arange(10, dtype="<f4").tobytes()
    read = read_update(flat, ANDROID, MODEL)
    assert read["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert [float(read[name]) for name in ("scale", "steps")] == [6, 7]


def test_wider_floats_are_rounded_and_whole_numbers_stay_whole() -> None:
    like = Arrays({"w": np.zeros(1, np.float32), "n": np.zeros(1, np.int64)})
    read = read_update(npz([np.array([1 / 3]), np.array([3.0])]), NUMPY, like)
    assert (read["w"].dtype, float(read["w"][0])) == (np.float32, float(np.float32(1 / 3)))
    with pytest.raises(InputError, match="whole numbers"):
        read_update(npz([np.array([1 / 3]), np.array([3.5])]), NUMPY, like)


@pytest.mark.parametrize(
    ("tensors", "flaw"),
    [
        ([np.zeros((2, 3), np.float32)], "1 tensors, and the model has 4"),
        ([np.zeros((3, 2), np.float32), np.float64(0), np.array(0), np.zeros(2)], r"shape \(3, 2\)"),
        ([np.zeros((2, 3), complex), np.float64(0), np.array(0), np.zeros(2)], "complex128"),
    ],
)
def test_a_model_of_another_structure_is_refused_by_name(tensors: list[np.ndarray], flaw: str) -> None:
    with pytest.raises(InputError, match=flaw):
        read_update(npz(tensors), NUMPY, MODEL)


def test_nothing_is_unpickled() -> None:
    file = io.BytesIO()
    np.savez(file, **{"0": np.array([{"a": 1}], dtype=object)})
    with pytest.raises(InputError, match=r"no \.npz of numbers"):
        read_model(file.getvalue(), NUMPY, 1000)


def test_a_file_that_unpacks_without_end_is_refused_before_it_is_read() -> None:
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("0.npy", bytes(50 << 20))
    assert len(bomb.getvalue()) < 1 << 20
    with pytest.raises(InputError, match="more than the"):
        read_model(bomb.getvalue(), NUMPY, 1 << 20)


@pytest.mark.parametrize("names", [["0.npy", "2.npy"], ["arr_0.npy"], ["0.npy", "../1.npy"]])
def test_other_members_are_refused(names: list[str]) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        for name in names:
            out.writestr(name, b"x")
    with pytest.raises(InputError, match="without a gap"):
        read_model(file.getvalue(), NUMPY, 1000)


def test_tensors_in_columns_and_of_no_dimension_and_of_no_number_are_read() -> None:
    tensors = [np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.float64(4), np.zeros((0, 3))]
    read = read_model(npz(tensors), NUMPY, 1000)
    assert [each.tolist() for each in read.values()] == [each.tolist() for each in tensors]
    assert [each.shape for each in read.values()] == [(2, 3), (), (0, 3)]


def test_a_tensor_that_ends_early_is_refused() -> None:
    file = io.BytesIO(npz([np.random.default_rng(0).normal(size=1000)]))
    with pytest.raises(InputError, match=r"no \.npz of numbers"):
        read_model(file.getvalue()[:-400] + file.getvalue()[-300:], NUMPY, 10_000)


def test_half_a_number_is_refused() -> None:
    with pytest.raises(InputError, match="no whole number"):
        read_model(b"123", ANDROID, 100)


def test_helpers_are_plug_ins() -> None:
    assert {"numpyhelper", "binaryhelper", "androidhelper"} <= set(helper_names())
    assert isinstance(NUMPY, Helper)
    with pytest.raises(ConfigError, match="numpyhelper"):
        helper_of("nohelper")

from pathlib import Path

import numpy as np
import pytest

from hansa.data import heart_disease
from hansa.errors import InputError


@pytest.fixture(scope="module")
def hospitals(shared_data: Path) -> dict[str, heart_disease.Split]:
    return heart_disease.read(shared_data / "heart_disease")


def test_the_split_sizes_are_those_of_the_published_recipe(hospitals: dict[str, heart_disease.Split]) -> None:
    sizes = {name: (len(split.train.y), len(split.test.y)) for name, split in hospitals.items()}
    assert sizes == {"cleveland": (199, 104), "hungarian": (172, 89), "switzerland": (30, 16), "va": (85, 45)}


def test_each_hospital_is_standardized_by_its_own_training_part(hospitals: dict[str, heart_disease.Split]) -> None:
    for split in hospitals.values():
        assert split.train.x.shape[1] == 13
        assert split.train.x.dtype == split.train.y.dtype == np.float32
        np.testing.assert_allclose(split.train.x.mean(axis=0), 0, atol=1e-5)
        deviations = split.train.x.std(axis=0, ddof=1)
        assert np.all(np.isclose(deviations, 1, atol=1e-5) | (deviations == 0))


def test_a_constant_feature_becomes_zero_and_not_nan(hospitals: dict[str, heart_disease.Split]) -> None:
    cholesterol = 3  # Switzerland recorded 0 for every patient; after age, sex and blood pressure
    assert not hospitals["switzerland"].train.x[:, cholesterol].any()
    assert all(np.isfinite(split.test.x).all() for split in hospitals.values())


def test_the_pooled_test_is_standardized_by_all_training_parts(shared_data: Path) -> None:
    pooled = heart_disease.pooled_test(shared_data / "heart_disease")
    assert pooled.x.shape == (254, 13)
    age = 0
    assert abs(float(pooled.x[:, age].mean())) < 0.2
    swiss = pooled.x[104 + 89 : 104 + 89 + 16]
    assert swiss[:, 3].max() < -1  # no cholesterol was recorded there, which only the pooled scale can tell


def test_every_swiss_training_patient_is_ill(hospitals: dict[str, heart_disease.Split]) -> None:
    assert hospitals["switzerland"].train.y.tolist() == [1.0] * 30
    assert hospitals["cleveland"].train.y.mean() == pytest.approx(91 / 199)


def _write(folder: Path, rows: str) -> None:
    for hospital in heart_disease.HOSPITALS:
        (folder / f"processed.{hospital}.data").write_text(rows)


def test_rows_with_a_missing_value_go_but_not_for_the_dropped_columns(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    row = "{age},1,{cp},130,200,0,{ecg},150,0,1.5,{slope},?,?,{num}\n"
    kept = [{"age": 40 + i, "cp": 1 + i % 4, "ecg": i % 3, "slope": "?", "num": i % 2 * 2} for i in range(12)]
    lost = {"age": "?", "cp": 1, "ecg": 0, "slope": 1, "num": 1}
    _write(tmp_path, "".join(row.format(**fields) for fields in [*kept, lost]))
    split = heart_disease.read(tmp_path)["va"]
    assert len(split.train.y) + len(split.test.y) == 12
    assert sorted({*split.train.y.tolist(), *split.test.y.tolist()}) == [0.0, 1.0]


def test_a_missing_file_and_a_malformed_line_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no .*processed\.cleveland\.data"):
        heart_disease.read(tmp_path)
    with pytest.raises(InputError, match="no hospital 'charite'"):
        heart_disease.read_hospital(tmp_path, "charite")
    with pytest.raises(InputError, match="no hospital number 4; there are 4"):
        heart_disease.read_hospital(tmp_path, 4)
    _write(tmp_path, "1,2,3\n")
    with pytest.raises(InputError, match="line 1, has 3 values"):
        heart_disease.read(tmp_path)
    _write(tmp_path, "50,1,9,130,200,0,1,150,0,1.5,2,?,?,1\n")
    with pytest.raises(InputError, match=r"has 9\.0 in column 2; expected one of"):
        heart_disease.read(tmp_path)
    _write(tmp_path, ",".join(["x"] * 14))
    with pytest.raises(InputError, match="expected numbers and"):
        heart_disease.read(tmp_path)

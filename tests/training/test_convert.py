"""What `@app.model` may return."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from hansa.arrays import Arrays
from hansa.errors import AppError, ArraysMismatchError
from hansa.training import as_arrays


def test_arrays_are_themselves_and_mappings_keep_their_order() -> None:
    arrays = Arrays({"b": np.ones(2), "a": np.zeros(1)})
    assert as_arrays(arrays) is arrays
    assert as_arrays({"b": np.ones(2), "a": [0.0]}) == arrays


def test_a_torch_module_and_its_state_dict_are_the_same_model() -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).to(torch.bfloat16)
    arrays = as_arrays(module)
    assert list(arrays) == list(module.state_dict())
    assert arrays["0.weight"].dtype == ml_dtypes.bfloat16
    assert as_arrays(module.state_dict()) == arrays
    assert as_arrays(dict(module.named_parameters()))["0.weight"].tolist() == arrays["0.weight"].tolist()


def test_a_fitted_estimator_is_what_it_has_learnt() -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    estimator = linear.LinearRegression().fit([[0.0], [1.0]], [1.0, 3.0])
    assert as_arrays(estimator)["coef_"] == pytest.approx([2.0])
    assert as_arrays(estimator)["intercept_"] == pytest.approx(1.0)


@pytest.mark.parametrize(("model", "said"), [(None, "nothing"), ([np.ones(1)], "a list"), (3.0, "a float")])
def test_anything_else_is_refused(model: Any, said: str) -> None:
    with pytest.raises(AppError, match=f"the model is {said}"):
        as_arrays(model)


def test_a_mapping_of_other_things_is_refused_by_name() -> None:
    with pytest.raises(ArraysMismatchError, match="'w'"):
        as_arrays({"w": "text"})

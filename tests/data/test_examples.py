"""The two examples that come with this room's data, run as a user runs them."""

from pathlib import Path

import pytest

import hansa

_EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_digits_reaches_093_within_20_rounds_of_ten_owners() -> None:
    pytest.importorskip("sklearn")
    result = hansa.simulate(_EXAMPLES / "digits", clients=10, rounds=20)
    accuracies = [record.central["accuracy"] for record in result.rounds]
    assert accuracies[-1] >= 0.95
    assert next(number for number, accuracy in enumerate(accuracies, 1) if accuracy >= 0.93) <= 10
    assert result.rounds[-1].num_examples == 1438


@pytest.mark.usefixtures("shared_data")
def test_four_hospitals_learn_and_each_judges_the_model_on_its_own_patients() -> None:
    pytest.importorskip("sklearn")
    result = hansa.simulate(_EXAMPLES / "heart_disease", clients=4, rounds=10)
    assert result.rounds[-1].num_examples == 199 + 172 + 30 + 85
    assert result.rounds[-1].evaluation["accuracy"] > 0.7
    assert result.rounds[-1].metrics["loss"] < result.rounds[0].metrics["loss"]

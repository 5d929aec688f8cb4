import pytest

from hansa.errors import ConfigError
from hansa.messages import RoundRules
from hansa.rounds.eligible import chosen, eligible
from hansa.rounds.rules import validate


def test_a_run_that_chooses_nobody_may_invite_anybody():
    assert eligible(RoundRules())("north", {})
    assert chosen(RoundRules()) == ""


def test_of_one_key_any_value_suffices_and_of_several_keys_each_is_needed():
    may = eligible(RoundRules(labels=("region=eu", "region=us", "gpu=yes")))

    assert may("a", {"region": "eu", "gpu": "yes"})
    assert may("b", {"region": "us", "gpu": "yes", "more": "x"})
    assert not may("c", {"region": "eu"})
    assert not may("d", {"region": "asia", "gpu": "yes"})


def test_a_client_must_be_named_and_labelled_where_a_run_asks_for_both():
    rules = RoundRules(only=("north", "south"), labels=("region=eu",))

    assert eligible(rules)("north", {"region": "eu"})
    assert not eligible(rules)("north", {})
    assert not eligible(rules)("west", {"region": "eu"})
    assert chosen(rules) == "named north, south and labelled region=eu"


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        (RoundRules(labels=("region",)), "the label 'region' has no value: write it as region=eu"),
        (RoundRules(only=("a", "a")), "only is a, a"),
        (RoundRules(only=("a", "b"), min_clients=3), "only names 2 clients, and a round needs 3"),
    ],
)
def test_a_choice_that_cannot_be_is_refused(rules: RoundRules, says: str):
    with pytest.raises(ConfigError, match=says):
        validate(rules)


def test_names_are_no_single_text():
    with pytest.raises(ConfigError, match="only is 'north'; it must be a list of texts"):
        RoundRules(only="north")  # type: ignore[arg-type]

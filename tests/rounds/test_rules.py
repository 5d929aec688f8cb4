import math
from dataclasses import replace
from typing import Any

import pytest

from hansa.errors import ConfigError
from hansa.messages import RoundRules
from hansa.rounds.rules import validate


def test_the_defaults_hold():
    validate(RoundRules())


@pytest.mark.parametrize(
    "changes",
    [
        {"quorum": 3, "min_clients": 3, "enough": 3},
        {"fraction": 1.0},
        {"deadline": 1, "lease": 60},
    ],
)
def test_lets_rules_pass_that_can_hold(changes: dict[str, Any]):
    validate(replace(RoundRules(), **changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"min_clients": 0}, "min_clients is 0; it must be a whole number, at least 1"),
        ({"quorum": 0}, "quorum is 0"),
        ({"quorum": True}, "quorum is True"),
        ({"quorum": 2.0}, "quorum is 2.0"),
        ({"enough": 0}, "enough is 0"),
        ({"count": -1}, "count is -1"),
        ({"deadline": 0.0}, "deadline is 0.0; it must be a number of seconds above 0, and finite"),
        ({"deadline": math.inf}, "deadline is inf"),
        ({"lease": math.nan}, "lease is nan"),
        ({"lease": "60"}, "lease is '60'"),
        ({"fraction": 0.0}, "fraction is 0.0; it must be above 0"),
        ({"fraction": math.nan}, "fraction is nan"),
        ({"quorum": 3, "min_clients": 2}, "may open with min_clients = 2; raise min_clients to 3 or lower quorum"),
        ({"quorum": 3, "min_clients": 3, "enough": 2}, "raise enough to 3 or lower quorum"),
    ],
)
def test_refuses_rules_that_cannot_hold_and_says_what_to_do(changes: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said):
        validate(replace(RoundRules(), **changes))

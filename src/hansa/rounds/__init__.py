"""Who was invited, who answered, and whether it is too late: state machines with no socket, no clock and no array.

`round.Round` closes one phase of one round, `intake.Intake` admits updates on one server, `policies` choose cohorts,
and `rules.validate` refuses rules that cannot hold.
"""

from hansa.rounds.intake import Admit, Intake, Repeat
from hansa.rounds.round import Round
from hansa.rounds.rules import validate
from hansa.rounds.why import Outstanding, RoundState, Why

__all__ = ["Admit", "Intake", "Outstanding", "Repeat", "Round", "RoundState", "Why", "validate"]

"""FedRep: clients share a representation and each has a head of its own; first the head is trained, then the rest.

    client i:   passes of local training of the head h_i, the representation φ as received
                one of φ, the head as it is now;  sends φ_i − φ, keeps h_i
    server:     φ ← mean φ_i

Collins, Hassani, Mokhtari, Shakkottai: "Exploiting Shared Representations for Personalized Federated Learning", ICML
2021, arXiv:2102.07078, Algorithm 1. Every client counts alike. Each pass is as long as the trainer's settings say.
"""

from dataclasses import replace
from functools import partial

from hansa.aggregators.mean import unweighted
from hansa.algorithm import Aggregator, Algorithm, State, Trainer
from hansa.algorithms import fedavg, fedper
from hansa.algorithms.local import check_memory_is_free, corrected_fit
from hansa.algorithms.options import check_count
from hansa.arrays import Arrays
from hansa.messages import GradientCorrection, Task, Update

__all__ = ["client_update", "fedrep"]


def fedrep(aggregator: Aggregator, *, personal: str, head_passes: int = 1) -> Algorithm:
    """personal: the tensors of the head, as in fedper; head_passes: ≥ 1, before the one of the rest."""
    check_count("fedrep", "head_passes", head_passes)
    return Algorithm(
        name="fedrep",
        init=State,
        broadcast=lambda state: state.params,
        client_update=partial(client_update, personal=fedper.matching("fedrep", personal), head_passes=head_passes),
        aggregator=unweighted(aggregator),
        server_update=fedavg.server_update,
        personal=fedper.own_layers,
    )


def client_update(trainer: Trainer, model: Arrays, task: Task, *, personal: fedper.Names, head_passes: int) -> Update:
    """The change of the representation; `memory` is the head."""
    head = fedper.personal_names("fedrep", personal, model)
    start, alone = fedper.own_layers(model, task.memory), replace(task, memory=None)
    now = start
    for held in (*[frozenset(model) - head] * head_passes, head):
        trained = corrected_fit("fedrep", trainer, now, alone, GradientCorrection(frozen=held))
        check_memory_is_free("fedrep", trained, "its own head")
        now = trained.arrays
    return fedper.shared_change(start, trained, head)

"""Stochastic gradient push: decentralized SGD on directed topologies, by push-sum.

x_i ← Σ_j P_ij (x_j − η g(z_j)),  ω_i ← Σ_j P_ij ω_j,  z_i = x_i / ω_i

P is column-stochastic: everybody shares out all of what it has, so Σ ω_i = n and, but for the gradients, Σ x_i stay as
they are, whatever the directions. z is what is trained and used. Assran et al. 2019, arXiv:1811.10792; push-sum: Kempe
et al., FOCS 2003. Sums x are kept in float64.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hansa.arrays import Array, Arrays
from hansa.protocols.learner import Learner, LocalClient
from hansa.protocols.message import message
from hansa.protocols.mixing import Mixing, check_column_stochastic, column_stochastic, mix, rounded
from hansa.protocols.parts import check_count
from hansa.protocols.topology import check_connected
from hansa.protocols.worker import Program, Worker

__all__ = ["Mass", "Pushed", "debias", "push", "pushsum", "received"]


@message("pushsum.mass")
@dataclass(frozen=True, slots=True)
class Mass:
    """A biased sum of models and its weight, or a share of them."""

    x: Arrays
    """float64."""
    omega: float
    """> 0."""


Watch = Callable[[int, int, Mass], None]
"""(worker, step, its mass): called after each step, for the workers of this process."""


@message("pushsum.trained")
@dataclass(frozen=True, slots=True)
class Pushed:
    """What a worker ends with."""

    model: Arrays
    """z = x / ω, in the model's dtypes."""
    losses: np.ndarray
    """As `Trained.losses`."""
    mass: Arrays
    """x, float64."""
    omega: float


def pushsum(
    learner: Learner, *, rounds: int, mixing: Mixing = column_stochastic, watch: Watch | None = None
) -> Program:
    """A program whose workers each end with a `Pushed`, on any strongly connected topology, directed or not.

    learner: a `hansa.App`; worker i is its client i of n. mixing: column-stochastic weights of the topology, else it is
    refused with a `ConfigError`.
    """
    check_count("rounds", rounds)

    async def program(worker: Worker) -> Pushed:
        client = LocalClient(learner, worker, worker.number, worker.size)
        z = client.initial_model()
        mass = Mass(Arrays({name: array.astype(np.float64) for name, array in z.items()}), 1.0)
        for step in range(rounds):
            change = client.fit(z, step + 1).arrays
            mass = await _shared(worker, step, Mass(mix({0: 1.0}, {0: mass.x}, change), mass.omega), mixing)
            z = debias(mass, z)
            if watch is not None:
                watch(worker.number, step, mass)
        trained = client.trained(z)
        return Pushed(trained.model, trained.losses, mass.x, mass.omega)

    return program


def push(mass: Mass, share: float) -> Mass:
    """P_ij · (x_j, ω_j): what j sends to i, or keeps."""
    return Mass(Arrays({name: share * array for name, array in mass.x.items()}), share * mass.omega)


def received(shares: dict[int, Mass]) -> Mass:
    """The sum of what one has kept and got, in the order of the workers."""
    x: dict[str, Array] = {}
    omega = 0.0
    for share in shares.values():
        x = {name: x[name] + array if x else array for name, array in share.x.items()}
        omega += share.omega
    return Mass(Arrays(x), omega)


def debias(mass: Mass, like: Arrays) -> Arrays:
    """z = x / ω, rounded to the dtypes of a model."""
    return Arrays({name: rounded(mass.x[name] / mass.omega, array) for name, array in like.items()})


async def _shared(worker: Worker, step: int, mass: Mass, mixing: Mixing) -> Mass:
    if step == 0:
        check_connected(worker.topology)
    topology = worker.topology.at(step)
    weights = mixing(topology)
    if step < len(worker.topology.phases):
        check_column_stochastic(weights, topology)
    mine = worker.number
    for receiver in topology.receivers[mine]:
        worker.send(receiver, push(mass, float(weights[receiver, mine])))
    got = await worker.gather(Mass, topology.senders[mine])
    return received(dict(sorted((got | {mine: push(mass, float(weights[mine, mine]))}).items())))

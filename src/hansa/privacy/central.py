"""Noise at the server, once per coordinate: DP-FedAvg, user-level differential privacy towards who gets the model.

    client i:   Δ_i ← Δ_i · min(1, C/‖Δ_i‖)                 (`clip`)
    server:     w ← w + (Σ_S Δ_i + N(0, (zC)²)) / (qN)       qN fixed, whoever takes part; no weights

McMahan, Ramage, Talwar, Zhang: "Learning Differentially Private Recurrent Language Models", ICLR 2018,
arXiv:1710.06963, Algorithm 1 with the estimator f_f. The server sees the sum, and combiners see updates: they are
trusted. With z = 0 and C = ∞ it is FedAvg of clients that count alike.

The noise is added to the exact sum of whole quanta before anything is rounded (`privacy.stream`). An update is within C
before it is rounded to quanta; half a quantum for each value is added to C before it is multiplied with z. Tensors of
whole numbers are not in the norm: the model keeps them as they are.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from hansa.algorithm import Bound, Noise, Partial, Stage, Transform
from hansa.errors import ConfigError
from hansa.privacy.noise import checked_multiplier
from hansa.privacy.stream import KEY, Stream

__all__ = ["central_noise"]

_MOST_CLIENTS = 2**40

_MOST = 2.0**56
"""Quanta of σ: ten times as much must not overflow beside a sum of 2^62."""


def central_noise(
    before: Bound, *, multiplier: float, clients: int, population: int | None = None, seeded: bool = False
) -> Transform:
    """multiplier: z ≥ 0; clients: qN ≥ 1, what the sum is divided by: those that a round is expected to have.

    population: N, of whom each round draws its clients at random, where nobody who gets the model knows whom; with it,
    less privacy is spent. None: who takes part is known. seeded: whether the noise follows from the run's seed on a
    network, too, which protects nothing; in a simulation it always does.
    """
    z = checked_multiplier("central-noise", multiplier)
    _check_count("clients", clients)
    if population is not None:
        _check_count("population", population)
        if population < clients:
            raise ConfigError(f"central-noise: population is {population}, fewer than the {clients} clients of a round")
    if not isinstance(seeded, bool):
        raise ConfigError(f"central-noise: seeded is {seeded!r}; it must be true or false")

    def release(partial: Partial, quanta: Mapping[str, float], rng: np.random.Generator) -> Partial:
        if z:
            _add_noise(partial, quanta, before.norm, z, Stream(rng.bytes(KEY)))
        return replace(partial, weight=clients)

    return Transform(
        "central-noise",
        stage=Stage.RELEASE,
        bound=before,
        secret=not seeded,
        noise=Noise("gaussian", z, local=False, seeded=seeded, clients=clients, population=population),
        release=release,
    )


def _check_count(option: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST_CLIENTS:
        raise ConfigError(f"central-noise: {option} is {value!r:.80}; it must be a whole number of at least 1")


def _add_noise(partial: Partial, quanta: Mapping[str, float], norm: float, z: float, stream: Stream) -> None:
    """In place, in the order of the tensors."""
    rounding = math.sqrt(math.fsum(partial.sums[name].size * quantum**2 for name, quantum in quanta.items())) / 2
    sigma = z * (norm + rounding)
    for name, sums in partial.sums.items():
        if name not in quanta:
            sums.fill(0)
            continue
        scale = sigma / quanta[name]
        if scale > _MOST:
            raise ConfigError(
                f"central-noise: σ is {sigma:.3g}, too large for the exact sum of {name!r}, whose quantum is "
                f"{quanta[name]:.3g}: clip to less, or raise max_weight"
            )
        flat = sums.reshape(-1)
        for place, noise in stream.blocks("gaussian", sums.size):
            flat[place] += np.rint(noise * scale).astype(np.int64)

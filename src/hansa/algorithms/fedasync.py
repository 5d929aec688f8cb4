"""FedAsync: each update makes a new model, w ← (1 − α s(τ)) w + α s(τ) w_i, w_i what the client trained to.

The client has trained from a model that is τ older than w; its gradient gains μ(w_i − that model). As changes of w,
which is what servers sum: Δ_i + that model − w, times s(τ), times α.

Xie, Koyejo, Gupta: "Asynchronous Federated Optimization", arXiv:1903.03934, Algorithm 1, with s of `staleness`. The
paper's experiments have α = 0.6 and 0.9, and μ = 0.005 (its ρ).
"""

from functools import partial

from hansa.algorithm import Aggregator, Algorithm, Buffering, State
from hansa.algorithms import fedprox
from hansa.algorithms.fedbuff import server_update
from hansa.algorithms.options import check_not_negative, check_positive
from hansa.algorithms.staleness import check_max_staleness, discount, discounted, moved
from hansa.errors import ConfigError

__all__ = ["fedasync"]


def fedasync(
    aggregator: Aggregator,
    *,
    alpha: float = 0.6,
    mu: float = 0.0,
    staleness: str = "polynomial",
    a: float = 0.5,
    b: int = 4,
    max_staleness: int | None = None,
) -> Algorithm:
    """alpha: 0 < α ≤ 1; mu: μ ≥ 0; staleness: s, polynomial in a, hinge in a and b, or constant.

    max_staleness: an update with a larger τ is rejected; none: however old it is, it counts.
    """
    check_positive("fedasync", "alpha", alpha)
    if alpha > 1:
        raise ConfigError(f"fedasync: alpha is {alpha}; it must be a number above 0 and at most 1")
    check_not_negative("fedasync", "mu", mu)
    check_max_staleness("fedasync", max_staleness)
    s = discount("fedasync", staleness, a, b)
    return Algorithm(
        name="fedasync",
        init=State,
        broadcast=lambda state: state.params,
        client_update=partial(fedprox.client_update, mu=mu),
        aggregator=aggregator,
        server_update=partial(server_update, learning_rate=alpha),
        buffering=Buffering(
            1, lambda change, tau, base, current: discounted(moved(change, base, current), s(tau)), max_staleness
        ),
    )

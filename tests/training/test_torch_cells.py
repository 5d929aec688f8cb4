"""The search space of FedNAS: a mixture that is one operation is that network, and a useless operation loses."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import hansa  # noqa: E402 - after what may be missing
from hansa.errors import InputError  # noqa: E402
from hansa.training.torch import TorchTrainer  # noqa: E402
from hansa.training.torch_cells import OPERATIONS, genotype, network, search_network  # noqa: E402

NAMES = tuple(OPERATIONS)


def test_a_mixture_that_is_one_operation_is_its_network():
    supernet = search_network(1, 3, channels=4, cells=2, nodes=2)
    wanted = ("convolution 3×3", "skip", "average 3×3")
    alone = network(1, 3, wanted, channels=4, cells=2)
    state, places = supernet.state_dict(), [NAMES.index(name) for name in wanted]
    with torch.no_grad():
        supernet.alpha.fill_(-1e9)
        for edge, place in enumerate(places):
            supernet.alpha[edge, place] = 0.0
    taken = {}
    for name in alone.state_dict():
        parts = name.split(".")
        if "operations" in parts:
            at = parts.index("operations") + 1
            edge = int(parts[at])
            parts[at] = str(edge * len(NAMES) + places[edge])
        taken[name] = state[".".join(parts)]
    alone.load_state_dict(taken)
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(supernet(x), alone(x))
    assert genotype(supernet.alpha.detach().numpy()) == wanted


def test_none_is_never_an_architectures_operation():
    assert genotype(np.array([[9.0, 0, 0, 1, 0]])) == ("convolution 3×3",)


def test_what_is_no_alpha_and_no_architecture_is_refused():
    with pytest.raises(InputError, match="it must be"):
        genotype(np.zeros((3, 2)))
    with pytest.raises(InputError, match="operations are none, skip"):
        network(1, 2, ["sorcery"])
    with pytest.raises(InputError, match="at least 1"):
        search_network(1, 2, nodes=0)


def test_a_federation_learns_that_a_stripe_needs_a_convolution():
    """Classes differ by the direction of a stripe, which no pooling of single pixels tells."""
    rng = np.random.default_rng(0)

    def images(count: int) -> tuple[np.ndarray, np.ndarray]:
        y = rng.integers(0, 2, count)
        x = rng.normal(0, 0.1, (count, 1, 6, 6)).astype(np.float32)
        for image, label in zip(x, y, strict=True):
            place = rng.integers(1, 5)
            image[0, place if label else slice(None), slice(None) if label else place] += 1
        return x, y

    app = hansa.App(
        TorchTrainer(
            lambda: search_network(1, 2, channels=4, cells=1, nodes=1),
            torch.nn.functional.cross_entropy,
            lambda parameters: torch.optim.SGD(parameters, lr=0.2),
            batch_size=16,
        )
    )
    shares = [images(96) for _ in range(2)]
    app.data(lambda client: shares[client.index])
    options = {"learning_rate": 2.0}
    run = {"algorithm": "fednas", "algorithm_options": options, "clients": 2, "rounds": 8}
    result = hansa.simulate(app, **run)
    assert genotype(result.model["alpha"])[0].startswith("convolution")

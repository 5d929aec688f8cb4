"""FedGKT in PyTorch against the same computed in loops."""

from typing import Any

import numpy as np
import pytest

from hansa.distributed import fedgkt, run, star
from hansa.errors import AppError, ConfigError, InputError
from hansa.messages import ClientInfo
from hansa.protocols.fedgkt import Logits, by_sample
from hansa.run import derive_rng

torch = pytest.importorskip("torch")
from hansa.training.tensors import load_into_module  # noqa: E402 - needs torch
from hansa.training.torch_distillation import distillation, torch_teams  # noqa: E402 - the same

nn = torch.nn
RNG = np.random.default_rng(9)
X = [RNG.normal(size=(n, 4)).astype(np.float32) for n in (10, 7)]
Y = [RNG.integers(0, 3, n) for n in (10, 7)]
ALPHA, T = 0.7, 2.0


def share(client: ClientInfo) -> tuple[Any, Any]:
    return X[client.index], Y[client.index]


def sgd(parameters: Any) -> Any:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def extractor() -> Any:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh())


def large() -> Any:
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


def teams(alpha: float = ALPHA) -> Any:
    return torch_teams(extractor, lambda: nn.Linear(5, 3), large, sgd, alpha=alpha, temperature=T)


def test_distillation_is_the_sum_over_classes_computed_by_hand() -> None:
    student, teacher = (torch.from_numpy(RNG.normal(size=(6, 3))) for _ in range(2))
    p, q = (torch.softmax(logits / T, dim=1) for logits in (teacher, student))
    expected = T**2 * (p * (p.log() - q.log())).sum() / 6
    assert distillation(student, teacher, T).item() == pytest.approx(expected.item())
    assert distillation(teacher, teacher, T).item() == pytest.approx(0, abs=1e-12)


def expected_models(rounds: int) -> tuple[list[Any], Any]:
    """Two clients and a server in loops, with the batches and first models of the protocol's seed 3."""
    made = teams()
    edges = [nn.Sequential(extractor(), nn.Linear(5, 3)) for _ in X]
    for edge in edges:
        load_into_module(edge, made.edge(derive_rng(3, "init", "edge")).arrays())
    server = large()
    load_into_module(server, made.server(derive_rng(3, "init", "server")).arrays())
    optimizers = [sgd(edge.parameters()) for edge in edges]
    top = sgd(server.parameters())
    teachers: list[Any] = [None, None]

    def step(module: Any, optimizer: Any, x: Any, y: Any, teacher: Any) -> None:
        optimizer.zero_grad()
        logits = module(x)
        loss = nn.functional.cross_entropy(logits, y)
        if teacher is not None:
            p = torch.softmax(teacher / T, dim=1)
            q = torch.log_softmax(logits / T, dim=1)
            loss = loss + ALPHA * T**2 * (p * (p.log() - q)).sum() / len(y)
        loss.backward()
        optimizer.step()

    for number in range(1, rounds + 1):
        for i, edge in enumerate(edges):
            order = derive_rng(3, "train", number, i + 1).permutation(len(X[i]))
            for start in range(0, len(order), 4):
                rows = order[start : start + 4]
                taught = None if teachers[i] is None else teachers[i][rows]
                step(edge, optimizers[i], torch.from_numpy(X[i][rows]), torch.from_numpy(Y[i][rows]), taught)
        with torch.no_grad():
            features = torch.cat([edge[0](torch.from_numpy(x)) for edge, x in zip(edges, X, strict=True)])
            logits = torch.cat([edge(torch.from_numpy(x)) for edge, x in zip(edges, X, strict=True)])
        order = derive_rng(3, "train", number, 0).permutation(17)
        for start in range(0, 17, 4):
            rows = order[start : start + 4]
            step(server, top, features[rows], torch.from_numpy(np.concatenate(Y)[rows]), logits[rows])
        with torch.no_grad():
            teachers = list(torch.split(server(features), [10, 7]))
    return edges, server


def test_three_rounds_are_those_of_loops_on_single_samples() -> None:
    results = run(fedgkt(teams(), share, rounds=3, batch_size=4), star(3), seed=3).results
    edges, server = expected_models(3)
    for module, result in zip([server, *edges], results, strict=True):
        for name, tensor in module.state_dict().items():
            assert np.allclose(result.model[name], tensor.numpy(), atol=1e-5)
        assert result.losses.shape == (3,)


def test_without_alpha_clients_learn_alone() -> None:
    together = run(fedgkt(teams(alpha=0), share, rounds=2, batch_size=4), star(3)).results
    alone = run(fedgkt(teams(alpha=0), share, rounds=2, batch_size=4), star(2)).results
    assert together[1].model == alone[1].model


def test_logits_are_put_to_their_samples_whatever_the_order_they_come_in() -> None:
    logits = np.arange(6.0).reshape(3, 2)
    assert by_sample(Logits(np.array([2, 0, 1]), logits[[2, 0, 1]]), 3).tolist() == logits.tolist()
    with pytest.raises(InputError, match="not of the samples 0 to 2, each once"):
        by_sample(Logits(np.array([0, 0, 1]), logits), 3)


def test_settings_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(ConfigError, match="alpha is -1"):
        teams(alpha=-1)
    with pytest.raises(ConfigError, match="server_epochs is 0"):
        fedgkt(teams(), share, rounds=1, server_epochs=0)


def test_a_loss_that_is_no_number_ends_the_training() -> None:
    def wild(parameters: Any) -> Any:
        return torch.optim.SGD(parameters, lr=1e30)

    unbounded = torch_teams(lambda: nn.Linear(4, 5), lambda: nn.Linear(5, 3), large, wild)
    with pytest.raises(AppError, match=r"round 1 of worker 1 has the loss (nan|inf)"):
        run(fedgkt(unbounded, share, rounds=2, batch_size=4), star(2))

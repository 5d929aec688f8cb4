"""A few dozen cases of the engines' agreement; `make agree` runs as many as you like."""

from typing import Any

import pytest
from cases import some

torch = pytest.importorskip("torch")

from agreement.cases import Case, draw, smaller  # noqa: E402 - needs torch
from agreement.engines import differences, run  # noqa: E402 - needs torch
from agreement.sweep import judge, shrunk  # noqa: E402 - needs torch
from hansa.training.chain import Chain  # noqa: E402 - needs torch

SEEDS = range(24)

FOUND = {
    "a module that changes its inputs in place": Case(layers=("elu in place",), batch_size=None, kept=True, rounds=3),
    "the same, looked at twice in a step": Case(layers=("double in place",), algorithm="fedsam", batch_size=None),
    "gradients of what the optimizer leaves out": Case(
        layers=("tanh",), optimizer="partly", epochs=2, algorithm="fedsam", options=(("rho", 1.0),)
    ),
    "one that is tried with the data of a client": Case(layers=("elu in place",), dtype="float32", sizes=(1,)),
    "a loss that broadcasts a column and a row": Case(targets="values", loss="mse_loss", sizes=(7,)),
    "the same, tried on one example": Case(targets="values", loss="mse_loss", sizes=(1, 4, 4)),
    "a sum over a batch that is as large as the trial": Case(loss="sum over 8", sizes=(8, 2), batch_size=8),
    "a sum, tried on one example": Case(loss="sum over 8", sizes=(1, 2)),
    "a loss with a term of all examples": Case(loss="own", sizes=(10,)),
    "a loss of the mean answers": Case(loss="balanced", sizes=(2,)),
    "a root of a mean": Case(loss="root", sizes=(2,)),
    "weights of classes of which the first client has one": Case(
        loss="weighted in a lambda", oddities=((0, "one class"),)
    ),
    "a class that is left out and that the first client lacks": Case(
        loss="without class 2 in a lambda", oddities=((0, "one class"),)
    ),
    "a module that counts its examples": Case(quirk="counting", sizes=(6,)),
    "a module that mixes its examples a little": Case(quirk="mixing", sizes=(1, 6)),
    "a module that mixes examples when it is evaluated": Case(quirk="mixing in evaluation", sizes=(3, 6)),
    "a hook of a parameter": Case(quirk="late bound", sizes=(4, 4), rounds=2),
    "a hook of a tensor on its way": Case(quirk="tensor hook", layers=("linear", "tanh"), sizes=(4, 9)),
    "an optimizer that clips before its steps": Case(optimizer="clipping groups", sizes=(8, 5)),
    "an optimizer with another step": Case(optimizer="replaced step"),
    "an optimizer that steps through memory": Case(
        optimizer="fused", targets="shares", loss="mse_loss", layers=("linear", "tanh"), dtype="float32"
    ),
    "a part without gradients": Case(quirk="first without gradient", layers=("linear", "relu"), sizes=(4, 9)),
    "rectifiers that are left out in an evaluation": Case(
        quirk="linear in evaluation", layers=("linear", "relu"), algorithm="fedsgd"
    ),
    "a rectifier at the end": Case(tail=("relu",)),
    "inputs of another shape": Case(sizes=(4, 4, 4), oddities=((1, "another shape"),), tolerate=True),
    "inputs of another dtype": Case(sizes=(4, 4, 4), oddities=((1, "whole inputs"),), tolerate=True),
    "bytes for inputs": Case(sizes=(1, 1, 1), oddities=((2, "unsigned inputs"),), tolerate=True),
    "targets of more axes, which were tried": Case(
        targets="values", loss="mse_loss", sizes=(3, 4), oddities=((0, "column of targets"),)
    ),
    "targets of more axes, which were not tried": Case(
        targets="values", loss="halved", sizes=(1, 3, 1), oddities=((1, "column of targets"),)
    ),
    "arrays that run backwards": Case(sizes=(1, 1, 1), oddities=((1, "another order"),), tolerate=True),
    "the first client has numbers that are none": Case(
        loss="root", sizes=(4, 4), oddities=((0, "no number"),), tolerate=True
    ),
}
"""What the engines once did not agree on."""


@pytest.mark.parametrize("case", FOUND.values(), ids=FOUND)
def test_what_engines_disagreed_on_they_agree_on(case: Case) -> None:
    assert not judge(case).wrong


@pytest.mark.parametrize("seed", some(SEEDS, always=SEEDS[:10]))
def test_engines_agree(seed: int) -> None:
    assert not judge(draw(seed)).wrong


def test_processes_agree_with_one_client_after_another_to_the_bit() -> None:
    case = Case(layers=("linear", "sigmoid"), optimizer="momentum", sizes=(9, 5, 3), rounds=2, algorithm="scaffold")
    assert not judge(case, processes=True).wrong


def test_a_case_is_read_as_it_is_written() -> None:
    for seed in SEEDS:
        assert Case.read(draw(seed).text()) == draw(seed)


PLAIN = Case(layers=("linear", "relu"), sizes=(7, 4, 8), rounds=2)


def test_most_plain_cases_train_together() -> None:
    assert judge(PLAIN).together == "together"


def test_a_difference_is_found_and_made_small() -> None:
    """Against the same run with another rate, of which the engine knows nothing."""

    def fails(case: Case) -> bool:
        other = run(Case.read(case.text().replace('"momentum"', '"sgd"')), "inline")
        return bool(list(differences(run(case, "inline"), other, 1e-7)))

    found = shrunk(Case(layers=("linear", "relu"), optimizer="momentum", sizes=(7, 4, 8), tolerate=True), fails)
    assert found.optimizer == "momentum"
    assert (found.layers, found.tolerate) == ((), False)
    assert not any(map(fails, smaller(found)))


# ── a way to a gradient that is wrong is not taken ───────────────────────────────────────────────────────────────────


def test_a_wrong_gradient_by_hand_is_left_to_automatic_differentiation(monkeypatch: pytest.MonkeyPatch) -> None:
    by_hand = Chain.differentiate

    def wrong(chain: Chain, parameters: Any, *given: Any) -> Any:
        means = by_hand(chain, parameters, *given)
        for parameter in list(parameters.values())[-1:]:
            parameter.grad.mul_(1.001)
        return means

    assert judge(PLAIN).together == "together"
    monkeypatch.setattr(Chain, "differentiate", wrong)
    verdict = judge(PLAIN)
    assert (verdict.together, verdict.wrong) == ("together", ())


def test_a_wrong_forward_pass_of_stacks_is_left_to_vmap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "hansa.training.dense._linear", lambda inputs, weight, bias: inputs @ weight.mT * 1.001 + bias[:, None]
    )
    case = Case(layers=("linear", "tanh"), sizes=(7, 4, 8))
    verdict = judge(case)
    assert (verdict.together, verdict.wrong) == ("together", ())


def test_where_no_way_is_right_clients_train_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    def called(module: Any, parameters: Any, *inputs: Any) -> Any:
        return torch.func.functional_call(module, parameters, *inputs) * 1.001

    monkeypatch.setattr("hansa.training.vectorized.functional_call", called)
    verdict = judge(Case(layers=("linear", "softmax"), sizes=(7, 4, 8)))
    assert (verdict.together, verdict.wrong) == (
        "alone: on stacked parameters the module has other gradients than alone, or none that are finite",
        (),
    )

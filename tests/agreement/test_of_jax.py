"""Two cases of JAX's engines, which should agree with each other, with a loop by hand and with PyTorch."""

import pytest

pytest.importorskip("jax")
pytest.importorskip("torch")

from agreement.of_jax import JaxCase, judge

CASES = {
    "as PyTorch": JaxCase(layers=("tanh",), batch_size=None, epochs=3, optimizer="momentum"),
    "targets of several dtypes": JaxCase(sizes=(4, 4), oddity="floating targets"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_engines_agree(case: JaxCase) -> None:
    assert judge(case) == ()

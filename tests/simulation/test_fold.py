"""The fold of a simulation: what is not counted leaves nothing in the sum."""

import numpy as np
import pytest

from hansa.app import App
from hansa.arrays import Arrays
from hansa.errors import AppError
from hansa.messages import Packing, RunSpec, Update
from hansa.run import resolve
from hansa.simulation.clients import VirtualClients
from hansa.simulation.fold import Folding
from hansa.training.numpy import NumpyTrainer, softmax_regression


def test_an_update_that_cannot_travel_is_not_in_the_sum():
    run = resolve(RunSpec())
    app = App(NumpyTrainer(softmax_regression(60, 3), learning_rate=0.1))
    model = run.initial_model(app)
    folding = Folding(app, run, VirtualClients(2), tolerate_failures=False)
    folding.begin(1, model, {})
    change = Arrays({name: np.ones_like(array) for name, array in model.items()})
    lies = {name: Packing(bits=4, steps=np.full(1, 0.3, array.dtype)) for name, array in change.items()}
    with pytest.raises(AppError, match="would change its values"):
        folding.offer("client-0", Update(change, 3, packing=lies), folding.partial, 1)
    assert (folding.partial.weight, folding.partial.contributions) == (0, {})
    folding.offer("client-1", Update(change, 3), folding.partial, 1)
    assert (folding.partial.weight, list(folding.partial.contributions)) == (3, ["client-1"])

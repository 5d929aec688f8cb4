"""hansa, with the engine that is asked for as `--setting`; `jax vectorized` trains in JAX instead of PyTorch."""

import sys
import tempfile
from pathlib import Path
from typing import cast

from job import Run

import hansa
from hansa.simulation.runtime import EngineName

APP = """
import sys

sys.path[:0] = {path!r}

import torch
from hansa import App
from hansa.training.torch import TorchTrainer
from job import Job
from simulation_modules import module
from pathlib import Path

job = Job.read(Path({job!r}))
app = App(
    TorchTrainer(
        lambda: module(job.workload),
        torch.nn.functional.cross_entropy,
        lambda parameters: torch.optim.SGD(parameters, lr=job.shape.learning_rate),
        batch_size=job.shape.batch_size,
        epochs=job.shape.epochs,
        channels_last=len(job.shape.inputs) > 1,
    )
)
app.data(lambda client: (job.x[client.index], job.y[client.index]))
"""

JAX_APP = """
import sys

sys.path[:0] = {path!r}

import jax.numpy as jnp
import optax
from hansa import App
from hansa.training.jax import JaxTrainer
from job import Job
from jax_modules import cross_entropy, forward
from pathlib import Path

job = Job.read(Path({job!r}))
app = App(
    JaxTrainer(
        lambda key: {{name: jnp.asarray(array) for name, array in job.initial.items()}},
        forward(job.workload),
        cross_entropy,
        optax.sgd(job.shape.learning_rate),
        batch_size=job.shape.batch_size,
        epochs=job.shape.epochs,
    )
)
app.data(lambda client: (job.x[client.index], job.y[client.index]))
"""


def main() -> None:
    """Play the rounds."""
    run = Run()
    framework, _, engine = run.setting.rpartition(" ")
    with tempfile.TemporaryDirectory() as folder:
        app = Path(folder) / "app.py"
        here = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
        app.write_text((JAX_APP if framework else APP).format(path=here, job=str(run.path)))
        result = hansa.simulate(
            app,
            clients=run.job.shape.clients,
            rounds=run.rounds,
            engine=cast("EngineName", engine),
            workers=run.cores if run.cores > 1 else None,
            evaluation=hansa.EvaluationRules(every=0),
            initial_model=run.job.initial,
            on_round=lambda _: run.round_done(),
            progress=False,
        )
    print(result.because, file=sys.stderr)
    run.finish(dict(result.model), f"engine {result.engine}" + f" in {framework}" * bool(framework))


if __name__ == "__main__":
    main()

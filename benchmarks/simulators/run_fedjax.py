"""FedJAX: its federated averaging, each client's step compiled (its `jit` backend, which is the one for a CPU)."""

from importlib.metadata import version

import fedjax
import jax
import jax.numpy as jnp
from fedjax.algorithms import fed_avg
from jax_modules import Params, mean_loss
from job import Run


def main() -> None:
    """Play the rounds."""
    run = Run()
    job, shape = run.job, run.job.shape
    gradient = jax.grad(mean_loss(job.workload))

    def of_batch(params: Params, batch: dict[str, jax.Array], rng: jax.Array) -> Params:
        del rng
        return gradient(params, batch["x"], batch["y"])

    algorithm = fed_avg.federated_averaging(
        of_batch,
        fedjax.optimizers.sgd(shape.learning_rate),
        fedjax.optimizers.sgd(1.0),
        fedjax.ShuffleRepeatBatchHParams(batch_size=shape.batch_size, num_epochs=shape.epochs),
    )
    data = [fedjax.ClientDataset({"x": job.x[client], "y": job.y[client]}) for client in range(shape.clients)]
    state = algorithm.init({name: jnp.asarray(array) for name, array in job.initial.items()})
    for key in jax.random.split(jax.random.PRNGKey(0), run.rounds):
        keys = jax.random.split(key, shape.clients)
        clients = [(b"%d" % client, each, keys[client]) for client, each in enumerate(data)]
        state, _ = algorithm.apply(state, clients)
        jax.block_until_ready(state.params)
        run.round_done()
    run.finish(state.params, f"fedjax {version('fedjax')}, jax {jax.__version__}")


if __name__ == "__main__":
    main()

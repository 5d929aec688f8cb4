"""FedAvg by hand in JAX, one compiled function a round: `vmap` over clients, `scan` over steps.

`--setting map` takes one client after the other (`lax.map`), which on a CPU is the faster way for convolutions.
"""

import jax
import jax.numpy as jnp
from jax_modules import Params, mean_loss
from job import Run


def main() -> None:
    """Play the rounds."""
    run = Run()
    shape = run.job.shape
    gradient = jax.grad(mean_loss(run.job.workload))
    steps = shape.examples // shape.batch_size

    def client(params: Params, x: jax.Array, y: jax.Array, key: jax.Array) -> Params:
        def step(current: Params, batch: jax.Array) -> tuple[Params, None]:
            gradients = gradient(current, x[batch], y[batch])
            return {name: value - shape.learning_rate * gradients[name] for name, value in current.items()}, None

        orders = jax.vmap(lambda each: jax.random.permutation(each, shape.examples))(
            jax.random.split(key, shape.epochs)
        )
        return jax.lax.scan(step, params, orders.reshape(shape.epochs * steps, shape.batch_size))[0]

    def together(params: Params, x: jax.Array, y: jax.Array, keys: jax.Array) -> Params:
        if run.setting == "map":
            trained = jax.lax.map(lambda each: client(params, *each), (x, y, keys))
        else:
            trained = jax.vmap(client, in_axes=(None, 0, 0, 0))(params, x, y, keys)
        return {name: value.mean(0) for name, value in trained.items()}

    played = jax.jit(together)
    params = {name: jnp.asarray(array) for name, array in run.job.initial.items()}
    x, y = jnp.asarray(run.job.x), jnp.asarray(run.job.y)
    for key in jax.random.split(jax.random.key(0), run.rounds):
        params = jax.block_until_ready(played(params, x, y, jax.random.split(key, shape.clients)))
        run.round_done()
    run.finish(params, f"jax {jax.__version__}, {run.setting or 'vmap'}")


if __name__ == "__main__":
    main()

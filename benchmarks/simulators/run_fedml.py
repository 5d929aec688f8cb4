"""FedML: the FedAvg of its simulation in a single process ("sp"), with batches cut beforehand, as its data loaders do.

Its own evaluation of all clients after the last round, and every so many, is left out.
"""

import torchvision_operators  # noqa: F401 - before what imports torchvision

# isort: split

import logging
from importlib.metadata import version
from types import SimpleNamespace

import fedml
import torch
from fedml.simulation.sp.fedavg import FedAvgAPI
from job import Run
from simulation_modules import module


class Timed(FedAvgAPI):
    """Notes each round in place of evaluating it."""

    run: Run

    def _local_test_on_all_clients(self, round_idx: int) -> None:
        del round_idx
        self.run.round_done()


def main() -> None:
    """Play the rounds."""
    run = Run()
    job, shape = run.job, run.job.shape
    logging.disable(logging.CRITICAL)
    args = SimpleNamespace(
        training_type="simulation",
        backend="sp",
        federated_optimizer="FedAvg",
        dataset="its own",
        client_num_in_total=shape.clients,
        client_num_per_round=shape.clients,
        comm_round=run.rounds,
        frequency_of_the_test=1,
        epochs=shape.epochs,
        batch_size=shape.batch_size,
        client_optimizer="sgd",
        learning_rate=shape.learning_rate,
        weight_decay=0.0,
        random_seed=0,
        using_mlops=False,
        enable_wandb=False,
        env_version="release",
    )
    fedml.init(args, check_env=False, should_init_logs=False)
    images = len(shape.inputs) > 1
    torch.set_num_threads(run.cores if images else 1)
    net = module(job.workload)
    net.load_state_dict({name: torch.from_numpy(array) for name, array in job.initial.items()})
    if images:
        net = net.to(memory_format=torch.channels_last)
    x, y = torch.from_numpy(job.x), torch.from_numpy(job.y)
    size = shape.batch_size
    batches = {client: list(zip(x[client].split(size), y[client].split(size), strict=True)) for client in range(len(x))}
    counts = dict.fromkeys(batches, shape.examples)
    total = shape.clients * shape.examples
    dataset = [total, total, None, None, counts, batches, batches, shape.classes]
    simulation = Timed(args, torch.device("cpu"), dataset, net)
    simulation.run = run
    simulation.train()
    found = {name: value.detach().contiguous().numpy() for name, value in net.state_dict().items()}
    run.finish(found, f"fedml {version('fedml')}, torch {torch.__version__}")


if __name__ == "__main__":
    main()

"""FedML: the FedAvg of its simulation in a single process ("sp"), with batches cut beforehand, as its data loaders do.

Its own evaluation of all clients after the last round, and every so many, is left out. And it is given a copy of the
initial model: fedml 0.9.6 hands out the very tensors that it trains, so that in the first round each client would begin
where the one before it has ended, which is not FedAvg.
"""

import torchvision_operators  # noqa: F401 - before what imports torchvision

# isort: split

import copy
import logging
from importlib.metadata import version
from types import SimpleNamespace

import torch
from fedml import mlops
from fedml.simulation.sp.fedavg import FedAvgAPI
from job import Run
from simulation_modules import module


class Timed(FedAvgAPI):
    """Notes each round in place of evaluating it."""

    run: Run

    def train(self) -> None:
        """See FedML; the first answer of its trainer is a copy."""
        given = self.model_trainer.get_model_params

        def copied() -> dict[str, torch.Tensor]:
            self.model_trainer.get_model_params = given
            return copy.deepcopy(given())

        self.model_trainer.get_model_params = copied
        super().train()

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
        using_mlops=False,
        enable_wandb=False,
    )
    mlops.pre_setup(args)  # and not fedml.init, which asks a server of FedML for settings
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
    run.finish(found, f"fedml {version('fedml')}, torch {torch.__version__}, first round corrected")


if __name__ == "__main__":
    main()

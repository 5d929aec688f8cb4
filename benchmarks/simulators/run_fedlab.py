"""FedLab: `SGDSerialClientTrainer` and `SyncServerHandler`, joined by `StandalonePipeline`, as in its own examples.

Its loaders read one example after the other, which is how its data sets are made. Its serialization refuses
models that are channels_last.
"""

import torchvision_operators  # noqa: F401 - before what imports torchvision

# isort: split

from importlib.metadata import version

import torch
from fedlab.contrib.algorithm.basic_client import SGDSerialClientTrainer
from fedlab.contrib.algorithm.basic_server import SyncServerHandler
from fedlab.core.standalone import StandalonePipeline
from job import Run
from simulation_modules import module
from torch.utils.data import DataLoader, TensorDataset


class Data:
    """The clients' data, as its trainer asks for them."""

    def __init__(self, run: Run) -> None:
        x, y = torch.from_numpy(run.job.x), torch.from_numpy(run.job.y)
        self._parts = [TensorDataset(*part) for part in zip(x, y, strict=True)]

    def get_dataloader(self, client: int, batch_size: int) -> DataLoader[tuple[torch.Tensor, ...]]:
        """Of one client."""
        return DataLoader(self._parts[client], batch_size=batch_size, shuffle=True)


class Pipeline(StandalonePipeline):
    """Notes each round."""

    def __init__(self, run: Run, handler: SyncServerHandler, trainer: SGDSerialClientTrainer) -> None:
        super().__init__(handler, trainer)
        self._run = run

    def evaluate(self) -> None:
        """See FedLab; it is called at the end of each round."""
        self._run.round_done()


def main() -> None:
    """Play the rounds."""
    run = Run()
    job, shape = run.job, run.job.shape
    torch.set_num_threads(run.cores if len(shape.inputs) > 1 else 1)
    net = module(job.workload)
    net.load_state_dict({name: torch.from_numpy(array) for name, array in job.initial.items()})
    trainer = SGDSerialClientTrainer(net, shape.clients)
    trainer.setup_dataset(Data(run))
    trainer.setup_optim(shape.epochs, shape.batch_size, shape.learning_rate)
    handler = SyncServerHandler(net, run.rounds, 1.0)
    Pipeline(run, handler, trainer).main()
    found = {name: value.detach().contiguous().numpy() for name, value in handler.model.state_dict().items()}
    run.finish(found, f"fedlab {version('fedlab')}, torch {torch.__version__}")


if __name__ == "__main__":
    main()

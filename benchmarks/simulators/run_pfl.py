"""pfl-research: `SimulatedBackend`, data as tensors in memory, every user once a round; with torchrun one rank a core.

Users hand over their data as they lie, for pfl does not shuffle batches.
"""

import os
from importlib.metadata import version

import torch
from job import Run
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from simulation_modules import module
from torch.nn.functional import cross_entropy


class Net(torch.nn.Module):
    """A module with the two methods that pfl asks for."""

    def __init__(self, workload: str) -> None:
        super().__init__()
        self.net = module(workload)

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """To minimize."""
        return cross_entropy(self.net(x), y)

    def metrics(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, Weighted]:
        """Asked for in the first round alone; no figure counts that one."""
        with torch.no_grad():
            return {"loss": Weighted(float(self.loss(x, y)) * len(y), len(y))}


class Clock(TrainingProcessCallback):
    """Notes each round."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        """See pfl."""
        del aggregate_metrics, model, central_iteration
        self.run.round_done()
        return False, Metrics()


def main() -> None:
    """Play the rounds."""
    run = Run()
    job, shape = run.job, run.job.shape
    ranks = int(os.environ.get("WORLD_SIZE", "1"))  # noqa: TID251 - torchrun's way of telling
    images = len(shape.inputs) > 1
    torch.set_num_threads(run.cores if images and ranks == 1 else 1)
    net = Net(job.workload)
    net.net.load_state_dict({name: torch.from_numpy(array) for name, array in job.initial.items()})
    if images:
        net = net.to(memory_format=torch.channels_last)
    x, y = torch.from_numpy(job.x), torch.from_numpy(job.y)
    users = list(range(shape.clients))
    data = FederatedDataset(
        lambda user: PyTorchTensorDataset((x[user], y[user]), user_id=str(user)),
        get_user_sampler("minimize_reuse", users),
    )
    model = PyTorchModel(
        net,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(net.parameters(), lr=1.0),
    )
    FederatedAveraging().run(
        backend=SimulatedBackend(training_data=data, val_data=data),
        model=model,
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=run.rounds,
            evaluation_frequency=run.rounds + 1,
            train_cohort_size=shape.clients,
            val_cohort_size=0,
        ),
        model_train_params=NNTrainHyperParams(
            local_num_epochs=shape.epochs,
            local_learning_rate=shape.learning_rate,
            local_batch_size=shape.batch_size,
        ),
        callbacks=[Clock(run)],
        send_metrics_to_platform=False,
    )
    if int(os.environ.get("RANK", "0")) == 0:  # noqa: TID251 - as above
        found = {name: value.detach().contiguous().numpy() for name, value in net.net.state_dict().items()}
        run.finish(found, f"pfl {version('pfl')}, torch {torch.__version__}, {ranks} rank{'s'[: ranks - 1]}")


if __name__ == "__main__":
    main()

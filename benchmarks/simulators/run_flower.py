"""Flower: its simulation engine on Ray, one CPU for each client at a time, so that as many train as there are cores."""

import logging
from importlib.metadata import version
from pathlib import Path

import ray
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from job import Job, Run
from simulation_modules import module
from torch.nn.functional import cross_entropy

_READ: dict[Path, Job] = {}
"""What this process has read."""


def _job(path: Path) -> Job:
    if path not in _READ:
        torch.set_num_threads(1)
        _READ[path] = Job.read(path)
    return _READ[path]


def client_app(path: Path) -> ClientApp:
    """Trains one client for one round; its process keeps the data."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        job = _job(path)
        shape, client = job.shape, int(context.node_config["partition-id"])
        net = module(job.workload)
        net.load_state_dict(message.content["arrays"].to_torch_state_dict())
        if len(shape.inputs) > 1:
            net = net.to(memory_format=torch.channels_last)
        x, y = torch.from_numpy(job.x[client]), torch.from_numpy(job.y[client])
        optimizer = torch.optim.SGD(net.parameters(), lr=shape.learning_rate)
        for _ in range(shape.epochs):
            for batch in torch.randperm(len(x)).split(shape.batch_size):
                optimizer.zero_grad()
                cross_entropy(net(x[batch]), y[batch]).backward()
                optimizer.step()
        content = RecordDict(
            {"arrays": ArrayRecord(net.state_dict()), "metrics": MetricRecord({"num-examples": len(x)})}
        )
        return Message(content=content, reply_to=message)

    return app


def server_app(run: Run, final: dict[str, torch.Tensor]) -> ServerApp:
    """Plays the rounds, and leaves the model in `final`."""
    app = ServerApp()
    clients = run.job.shape.clients

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        del context
        strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=clients, min_available_nodes=clients)

        def evaluate(number: int, arrays: ArrayRecord) -> None:
            del arrays
            if number:  # it is asked before the first round too
                run.round_done()

        initial = ArrayRecord({name: torch.from_numpy(array) for name, array in run.job.initial.items()})
        result = strategy.start(grid, initial, num_rounds=run.rounds, train_config=ConfigRecord(), evaluate_fn=evaluate)
        final.update(result.arrays.to_torch_state_dict())

    return app


def main() -> None:
    """Play the rounds."""
    run = Run()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    final: dict[str, torch.Tensor] = {}
    run_simulation(
        server_app(run, final),
        client_app(run.path.resolve()),
        num_supernodes=run.job.shape.clients,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"num_cpus": run.cores, "include_dashboard": False},
        },
    )
    found = {name: tensor.numpy() for name, tensor in final.items()}
    run.finish(found, f"flwr {version('flwr')}, ray {ray.__version__}, {run.cores} CPUs")


if __name__ == "__main__":
    main()

"""FedAvg by hand in PyTorch: one module, no copies but the mean, no loader.

One thread, which is the fastest for models as small as L and S; for images all cores, and channels_last.
"""

import torch
from job import Run
from simulation_modules import module
from torch.nn.functional import cross_entropy


def main() -> None:
    """Play the rounds."""
    run = Run()
    job, shape = run.job, run.job.shape
    images = len(shape.inputs) > 1
    torch.set_num_threads(run.cores if images else 1)
    torch.manual_seed(0)
    net = module(job.workload)
    net.load_state_dict({name: torch.from_numpy(array) for name, array in job.initial.items()})
    if images:
        net = net.to(memory_format=torch.channels_last)
    x, y = torch.from_numpy(job.x), torch.from_numpy(job.y)
    parameters = list(net.parameters())
    start = [each.detach().clone() for each in parameters]
    optimizer = torch.optim.SGD(parameters, lr=shape.learning_rate)
    for _ in range(run.rounds):
        mean = [torch.zeros_like(each) for each in start]
        for client in range(shape.clients):
            with torch.no_grad():
                torch._foreach_copy_(parameters, start)
            for _ in range(shape.epochs):
                for batch in torch.randperm(shape.examples).split(shape.batch_size):
                    optimizer.zero_grad()
                    cross_entropy(net(x[client][batch]), y[client][batch]).backward()
                    optimizer.step()
            with torch.no_grad():
                torch._foreach_add_(mean, parameters, alpha=1 / shape.clients)
        start = mean
        run.round_done()
    threads = f"{torch.get_num_threads()} threads" if torch.get_num_threads() > 1 else "one thread"
    names = [name for name, _ in net.named_parameters()]
    run.finish(
        {name: each.contiguous().numpy() for name, each in zip(names, start, strict=True)},
        f"torch {torch.__version__}, {threads}",
    )


if __name__ == "__main__":
    main()

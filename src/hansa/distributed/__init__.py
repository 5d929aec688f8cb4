"""Workers that talk to their neighbours: programs and protocols on any topology, in one process or over MPI.

```python
from hansa.distributed import dsgd, ring, run

outcome = run(dsgd(app, rounds=50), ring(8), seed=1)
```

`run` runs a program; `message`, `Worker` and topologies are for programs of one's own; the protocols are ready ones.
"""

from hansa.distributed.runtime import Outcome, run
from hansa.programs.ending import load
from hansa.protocols.aligned import AlignedTrained, Split, aligned_vertical
from hansa.protocols.alignment import align
from hansa.protocols.boosting import Boosted, Trees, bagging, cyclic
from hansa.protocols.dsgd import dsgd
from hansa.protocols.fedgkt import EdgeTrained, ServerTrained, Teams, fedgkt
from hansa.protocols.gossip import gossip
from hansa.protocols.hierarchical import hierarchical
from hansa.protocols.learner import Trained
from hansa.protocols.message import message
from hansa.protocols.mixing import (
    check_column_stochastic,
    check_doubly_stochastic,
    column_stochastic,
    mean_distance,
    mean_model,
    metropolis,
    second_eigenvalue,
    spectral_gap,
    uniform,
)
from hansa.protocols.models import Model
from hansa.protocols.parts import Bottom, Parts, Top, VerticalParts
from hansa.protocols.pushsum import Pushed, pushsum
from hansa.protocols.secure_fedavg import secure_fedavg
from hansa.protocols.split import SplitBottom, SplitTop, split_learning
from hansa.protocols.splitfed import splitfed
from hansa.protocols.topology import (
    TimeVarying,
    Topology,
    complete,
    directed_ring,
    erdos_renyi,
    exponential,
    from_edges,
    hierarchy,
    hubs,
    one_peer_exponential,
    random_regular,
    ring,
    star,
    torus,
    watts_strogatz,
    wheel,
)
from hansa.protocols.vertical import PartyTrained, Records, vertical
from hansa.protocols.worker import Gone, Program, Worker

__all__ = [
    "AlignedTrained",
    "Boosted",
    "Bottom",
    "EdgeTrained",
    "Gone",
    "Model",
    "Outcome",
    "Parts",
    "PartyTrained",
    "Program",
    "Pushed",
    "Records",
    "ServerTrained",
    "Split",
    "SplitBottom",
    "SplitTop",
    "Teams",
    "TimeVarying",
    "Top",
    "Topology",
    "Trained",
    "Trees",
    "VerticalParts",
    "Worker",
    "align",
    "aligned_vertical",
    "bagging",
    "check_column_stochastic",
    "check_doubly_stochastic",
    "column_stochastic",
    "complete",
    "cyclic",
    "directed_ring",
    "dsgd",
    "erdos_renyi",
    "exponential",
    "fedgkt",
    "from_edges",
    "gossip",
    "hierarchical",
    "hierarchy",
    "hubs",
    "load",
    "mean_distance",
    "mean_model",
    "message",
    "metropolis",
    "one_peer_exponential",
    "pushsum",
    "random_regular",
    "ring",
    "run",
    "second_eigenvalue",
    "secure_fedavg",
    "spectral_gap",
    "split_learning",
    "splitfed",
    "star",
    "torus",
    "uniform",
    "vertical",
    "watts_strogatz",
    "wheel",
]

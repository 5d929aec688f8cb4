"""Protocols between workers, as pure programs: who says what to whom, and the arithmetic on it; no socket, no clock.

A program is an async function of a `Worker`, which sends and receives typed messages over a `Topology`; runtimes
run it: `hansa.distributed` and the network. Import its modules, or what `hansa.distributed` exports.

| module          | what it is                                                              |
|-----------------|-------------------------------------------------------------------------|
| `message`       | frozen dataclasses registered as messages                               |
| `worker`        | a worker, and how it sends and receives                                 |
| `topology`      | who may send to whom                                                    |
| `mixing`        | mixing matrices, their checks, their spectral gap                       |
| `models`        | a model as a message                                                    |
| `learner`       | local training of a worker by an app's trainer                          |
| `gossip`        | average consensus                                                       |
| `dsgd`          | decentralized SGD                                                       |
| `pushsum`       | stochastic gradient push, for directed topologies                       |
| `hierarchical`  | averages within groups, then of groups                                  |
| `parts`         | a network that is cut                                                   |
| `split`         | split learning                                                          |
| `splitfed`      | the same in parallel, with averages                                     |
| `vertical`      | parties with different features of the same people                      |
| `aligned`       | the same where all have the same records in the same order              |
| `alignment`     | which people all parties know                                           |
| `fedgkt`        | small and large networks that teach each other                          |
| `secure_sum`    | secure aggregation: what its schemes share                              |
| `secagg`        | masks of pairs                                                          |
| `lightsecagg`   | masks coded into shares                                                 |
| `consistency`   | what clients sign, so that a server that cheats is found out            |
| `secure_fedavg` | federated averaging by either                                           |
"""

__all__: list[str] = []

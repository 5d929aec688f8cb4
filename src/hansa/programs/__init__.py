"""What runs a program's workers, whichever runtime has them: their coroutines, and their messages as bytes.

No socket and no clock is in here. `hansa.distributed` runs workers in one process and over MPI, `hansa.network` one in
each client.

| module     | what it is                                                     |
|------------|----------------------------------------------------------------|
| `encoding` | messages as bytes                                              |
| `crew`     | the workers of one process                                     |
| `ending`   | what a worker ends with: its result as a file, as numbers      |
"""

__all__: list[str] = []

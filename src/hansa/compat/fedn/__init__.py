"""FEDn 0.33.0's clients and scripts on a hansa server; see docs/how-to/from-fedn.md and docs/adr/0035-fedn-clients.md.

`gateway` knows the clients, `guest` is one of them, `desk` holds its tasks, `passes` those of split learning, whose
top is in `split`, `formats` reads and writes its models, `rpc` answers its gRPC calls, and `server` opens the ports.
"""

__all__: list[str] = []

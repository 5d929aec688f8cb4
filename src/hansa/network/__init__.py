"""The network runtime: a tree of processes that talk gRPC. The controller hosts the root, combiners branch."""

__all__: list[str] = []

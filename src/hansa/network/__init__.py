"""The network runtime: a tree of processes that talk gRPC. The controller hosts its root, combiners branch, clients train."""

__all__: list[str] = []

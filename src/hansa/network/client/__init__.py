"""A data owner's node: an agent that keeps the connection, and a worker process that runs the user's code."""

__all__: list[str] = []

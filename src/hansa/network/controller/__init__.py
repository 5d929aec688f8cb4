"""The control plane: sessions, the root of the tree, who is connected, tokens, the model trail."""

__all__: list[str] = []

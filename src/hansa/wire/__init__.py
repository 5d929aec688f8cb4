"""Bytes: frames, codec, chunks, tokens. The only room that knows protobuf."""

__all__: list[str] = []

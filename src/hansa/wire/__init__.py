"""Bytes: the only room that knows protobuf, gRPC and token formats. Import its modules; nothing is exported here.

| module     | what it is                                                                                          |
|------------|-----------------------------------------------------------------------------------------------------|
| `frames`   | what nodes say on a control stream, as values                                                       |
| `calls`    | what the other calls carry, as values                                                               |
| `framing`  | frames and calls ↔ protobuf bytes, for everyone                                                      |
| `record`   | behind `framing`: one dataclass ↔ one message, by field names                                        |
| `values`   | behind `framing`: configuration values with their types                                             |
| `limits`   | how much a peer may say at once                                                                     |
| `codec`    | weights ↔ canonical safetensors, without copying; content addresses; files                           |
| `chunks`   | pieces of those bytes on a stream, hand-framed as protobuf `Chunk`s, and their assembly             |
| `channel`  | gRPC as a client: connections, control streams, transfers; failures as hansa's own errors            |
| `service`  | gRPC as a server: the three services of hansa.v1 as handlers, and where they listen                 |
| `tokens`   | who is calling: JWTs signed with Ed25519                                                            |

The schema is proto/hansa/v1; `_generated` is made from it by `python proto/generate.py`, and nobody else imports it.
"""

__all__: list[str] = []

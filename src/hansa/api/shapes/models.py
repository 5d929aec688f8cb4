"""Models, and packages of user code."""

from pydantic import Field, JsonValue

from hansa.api.requests import DIGEST
from hansa.api.shapes.answer import Shape

__all__ = ["InitialModelShape", "ModelShape", "PackageContentsShape", "PackageShape", "PackedFileShape"]


class ModelShape(Shape):
    """A node of the model trail."""

    id: str = Field(examples=[DIGEST])
    """Content address: blake3 of the safetensors file."""
    project: str
    session: str
    """Empty for an uploaded seed."""
    round: int
    """0 for an initial model."""
    parent: str | None
    size: int
    """Bytes."""
    created_at: float
    name: str
    pruned_at: float | None
    """When the bytes were given up by the session's policy; null: they are kept."""
    pruned_by: str | None
    """The policy that gave them up."""


class InitialModelShape(Shape):
    """What an app begins with."""

    model: ModelShape
    spec: dict[str, JsonValue]
    """As it suits the app: without the evaluations that it has no functions for."""


class PackageShape(Shape):
    """User code that sessions ship to clients."""

    id: str = Field(examples=[DIGEST])
    """blake3 of the archive."""
    project: str
    name: str
    size: int
    created_at: float


class PackedFileShape(Shape):
    """A file of a package."""

    size: int
    """Bytes."""
    blake3: str = Field(examples=[DIGEST])
    executable: bool


class PackageContentsShape(Shape):
    """What a package holds, who has signed it, and what a client would start."""

    id: str = Field(examples=[DIGEST])
    """blake3 of the archive."""
    digest: str = Field(examples=[DIGEST])
    """blake3 of the manifest: what is signed, and what a data owner allows."""
    name: str
    signer: str | None = Field(examples=["ed25519:" + "3d" * 32])
    """The public key of who signed it; null: nobody has."""
    runs: list[str]
    """A line for each thing that a client would start."""
    requirements: list[str]
    """Names and versions that a client would install."""
    files: dict[str, PackedFileShape]
    """By their paths."""

"""What the API gives about logging in by an OpenID provider."""

from pydantic import Field

from hansa.api.shapes.answer import Shape
from hansa.api.shapes.people import IssuedTokenShape

__all__ = ["DeviceLoginShape", "DeviceStateShape", "LoginWaysShape", "OpenIdLoginShape"]


class LoginWaysShape(Shape):
    """How one may log in at the Studio, beside name and password, tokens and links."""

    openid: str = Field(examples=["https://fl.example.org:8470/ui/"])
    """Where browsers come back to from the OpenID provider; empty: there is none for the Studio."""


class OpenIdLoginShape(Shape):
    """A login in a browser that is under way."""

    authorization_url: str
    """Where the browser is to go."""
    state: str
    """What must stand in the redirect."""
    expires_in: float
    """Seconds."""


class DeviceLoginShape(Shape):
    """A login on another device that is under way."""

    handle: str
    """What to ask about it with."""
    user_code: str = Field(examples=["WDJB-MJHT"])
    """What the person types in."""
    verification_uri: str
    """Where."""
    verification_uri_complete: str
    """The same with the code in it; empty where the provider has none."""
    expires_in: float
    """Seconds."""
    interval: float
    """Seconds between two questions."""


class DeviceStateShape(Shape):
    """How far a login on another device is."""

    issued: IssuedTokenShape | None
    """The token; null: the person has not approved yet."""
    wait: float
    """Seconds until the next question."""

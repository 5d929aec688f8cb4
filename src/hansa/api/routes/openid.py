"""Logging in by an OpenID provider: in a browser on one's own machine, or on another device."""

from typing import Any

from fastapi import Request
from starlette.responses import Response

from hansa.api.documents import record_document
from hansa.api.guard import Routes
from hansa.api.permissions import Permission
from hansa.api.requests import DeviceAnswer, OpenIdAnswer, OpenIdLogin
from hansa.api.results import DeviceState, IssuedToken, LoginWays
from hansa.api.routes.people import address_of, kept
from hansa.api.shapes.people import IssuedTokenShape
from hansa.api.shapes.sign_on import DeviceLoginShape, DeviceStateShape, LoginWaysShape, OpenIdLoginShape
from hansa.network.controller.controller import Controller

__all__ = ["OpenIdRoutes"]


class OpenIdRoutes:
    """From a login at the provider to a token of this network; 404 where no provider is set."""

    def __init__(self, controller: Controller) -> None:
        """controller: knows the provider."""
        self._controller = controller

    def add(self, routes: Routes) -> None:
        """Add the routes."""
        anybody, made = Permission.STRANGERS, {"methods": ["POST"], "status_code": 201}
        routes.add(anybody, "/login", self.get_ways, response_model=LoginWaysShape)
        routes.add(anybody, "/login/oidc", self.begin, response_model=OpenIdLoginShape, **made)
        routes.add(anybody, "/login/oidc/code", self.finish, response_model=IssuedTokenShape, **made)
        routes.add(anybody, "/login/oidc/device", self.begin_on_device, response_model=DeviceLoginShape, **made)
        routes.add(anybody, "/login/oidc/device/token", self.ask, methods=["POST"], response_model=DeviceStateShape)

    async def get_ways(self) -> dict[str, Any]:
        """How one may log in at the Studio."""
        return record_document(LoginWays(self._controller.studio_sign_on))

    async def begin(self, body: OpenIdLogin, request: Request) -> dict[str, Any]:
        """Begin a login by the OpenID provider: where the browser is to go. It is to be finished in 10 minutes."""
        begun = await self._controller.sign_on.begin(body.redirect, body.challenge, address_of(request))
        return record_document(begun)

    async def finish(self, body: OpenIdAnswer, request: Request, response: Response) -> dict[str, Any]:
        """A token that holds for 12 hours, for what the provider sent to the redirect. It can be used once."""
        made = await self._controller.sign_on.finish(
            state=body.state,
            code=body.code.get_secret_value(),
            verifier=body.verifier.get_secret_value(),
            issuer=body.iss,
            address=address_of(request),
        )
        return kept(request, response, made) if body.cookie else record_document(IssuedToken(*made))

    async def begin_on_device(self, request: Request) -> dict[str, Any]:
        """Begin a login that the person approves on another device (RFC 8628)."""
        return record_document(await self._controller.sign_on.begin_device(address_of(request)))

    async def ask(self, body: DeviceAnswer, request: Request) -> dict[str, Any]:
        """A token that holds for 12 hours, once the person has approved; until then, when to ask again."""
        made = await self._controller.sign_on.finish_device(body.handle.get_secret_value(), address_of(request))
        state = DeviceState(None, made) if isinstance(made, float) else DeviceState(IssuedToken(*made), 0.0)
        return record_document(state)

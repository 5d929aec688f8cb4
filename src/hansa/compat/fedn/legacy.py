"""Root endpoints of FEDn before /api/v1, each with what has taken its place."""

from collections.abc import Mapping
from typing import Final

__all__ = ["LEGACY"]

_GRAPHQL: Final = "or the GraphQL API"


def _api(path: str, *, graphql: bool = False) -> str:
    return f"/api/v1/{path} {_GRAPHQL}" if graphql else f"/api/v1/{path}"


LEGACY: Final[Mapping[str, tuple[tuple[str, ...], str]]] = {
    "/delete_model_trail": (("GET", "POST"), ""),
    "/download_package": (("GET",), _api("packages/download")),
    "/get_active_clients": (("GET",), _api("clients")),
    "/get_client_config": (("GET",), _api("clients/config")),
    "/get_combiner": (("GET",), _api("combiners/<id>")),
    "/get_events": (("GET",), _api("statuses", graphql=True)),
    "/get_initial_model": (("GET",), _api("models", graphql=True)),
    "/get_latest_model": (("GET",), _api("models", graphql=True)),
    "/get_model": (("GET",), _api("models/<id>", graphql=True)),
    "/get_model_ancestors": (("GET",), _api("models/<id>/ancestors")),
    "/get_model_descendants": (("GET",), _api("models/<id>/descendants")),
    "/get_model_trail": (("GET",), _api("models", graphql=True)),
    "/get_package": (("GET",), _api("packages/active")),
    "/get_package_checksum": (("GET",), _api("packages/checksum")),
    "/get_round": (("GET",), _api("rounds/<id>")),
    "/get_session": (("GET",), _api("sessions/<id>", graphql=True)),
    "/list_clients": (("GET",), _api("clients")),
    "/list_combiners": (("GET",), _api("combiners")),
    "/list_combiners_data": (("POST",), _api("combiners/clients/count")),
    "/list_compute_packages": (("GET",), _api("packages")),
    "/list_models": (("GET",), _api("models", graphql=True)),
    "/list_rounds": (("GET",), _api("rounds")),
    "/list_sessions": (("GET",), _api("sessions", graphql=True)),
    "/list_validations": (("GET",), _api("validations", graphql=True)),
    "/set_active_package": (("PUT",), _api("packages/active")),
    "/set_current_model": (("PUT",), _api("models")),
    "/set_initial_model": (("POST",), _api("models")),
    "/set_package": (("POST",), _api("packages")),
    "/start_session": (("GET", "POST"), _api("sessions/start")),
}
"""Path → (methods, what to use instead; empty: nothing does what it did)."""

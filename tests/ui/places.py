"""Every page of the Studio."""

__all__ = ["OF_INSTALLATION", "OF_PROJECT", "PLACES"]

OF_PROJECT = (
    "", "/sessions", "/sessions/new", "/sessions/compare?ids={session},{other}", "/sessions/{session}",
    "/sessions/{session}?tab=clients", "/sessions/{session}?tab=network", "/sessions/{session}?tab=rejected",
    "/sessions/{session}?tab=events", "/sessions/{session}?tab=settings", "/models", "/models/{model}", "/network",
    "/clients", "/clients/join", "/clients/client-0", "/events", "/packages", "/packages/{package}", "/members",
    "/tokens", "/audit", "/settings", "/nowhere",
)  # fmt: skip
OF_INSTALLATION = ("projects/new", "admin/users", "admin/system", "admin/audit", "account")
PLACES = tuple(f"p/default{place}" for place in OF_PROJECT) + OF_INSTALLATION
"""Paths below /ui/, with the ids of sessions, a model and a package to fill in."""

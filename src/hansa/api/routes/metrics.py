"""The installation in numbers, for a program that watches over it."""

from fastapi import Request, Response

from hansa.api.metrics import Metrics

__all__ = ["MetricsRoute"]


class MetricsRoute:
    """What a scraper asks for."""

    def __init__(self, metrics: Metrics) -> None:
        """metrics: of this server."""
        self._metrics = metrics

    async def metrics(self, request: Request) -> Response:
        """The installation's metrics, in Prometheus's text format; with `Accept` for it, in OpenMetrics."""
        body, media_type = await self._metrics.text(request.headers.get("accept", ""))
        return Response(body, media_type=media_type)

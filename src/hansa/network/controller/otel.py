"""Spans by OpenTelemetry's protocol over HTTP, to a collector that the standard variables name.

What is exported waits in a bounded queue for a thread of its own: a collector that is away, or slow, costs spans and
never a round.
"""

import asyncio
import logging
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import Final

import structlog

from hansa.errors import MissingExtraError
from hansa.network.controller.traces import Place, Span

try:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.sdk.trace.id_generator import IdGenerator
    from opentelemetry.sdk.trace.sampling import Decision
    from opentelemetry.trace import (
        Link,
        NonRecordingSpan,
        SpanContext,
        Status,
        StatusCode,
        TraceFlags,
        set_span_in_context,
    )
except ImportError as error:
    raise MissingExtraError("OTEL_EXPORTER_OTLP_ENDPOINT is set, and sending traces there", "otel") from error

__all__ = ["Collector"]

_log = structlog.get_logger(__name__)

_TIME_TO_LEAVE: Final = 2.0
"""Seconds for which the end waits for what is still in the queue."""


class _Ids(IdGenerator):
    """Those of the span that is made now."""

    place = Place(0, 0)

    def generate_trace_id(self) -> int:
        return self.place.trace

    def generate_span_id(self) -> int:
        return self.place.span

    def is_trace_id_random(self) -> bool:
        return True  # a hash: as even as if it were


class _Reporting(SpanExporter):
    """Another exporter, which says once when nobody takes what it sends, and once when somebody does again."""

    def __init__(self, inner: SpanExporter) -> None:
        self._inner = inner
        self._lost = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._inner.export(spans)
        if result is not SpanExportResult.SUCCESS:
            if not self._lost:
                _log.warning(
                    "the collector of traces does not take them; sessions go on, and these spans are lost",
                    do="see that what OTEL_EXPORTER_OTLP_ENDPOINT names is up and speaks OTLP over HTTP",
                )
            self._lost += len(spans)
        elif self._lost:
            _log.info("the collector of traces takes them again", lost=self._lost)
            self._lost = 0
        return result

    def shutdown(self) -> None:
        self._inner.shutdown()


class Collector:
    """What takes spans: all else is as the variables OTEL_… say."""

    def __init__(self) -> None:
        """Begins to send; raises `MissingExtraError` where the extra is not installed, when this module is loaded."""
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # it repeats itself; `_Reporting` does not
        self._ids = _Ids()
        mine = {"service.name": "hansa", "service.version": version("hansa")}
        resource = Resource.create({**mine, **OTELResourceDetector().detect().attributes})
        self._provider = TracerProvider(resource=resource, id_generator=self._ids, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(_Reporting(OTLPSpanExporter())))
        self._tracer = self._provider.get_tracer("hansa", version("hansa"))

    def export(self, spans: Iterable[Span]) -> None:
        """Queue them; the oldest in a queue that is full are dropped."""
        for span in spans:
            self._export(span)

    async def aclose(self) -> None:
        """Send what is queued, as far as the collector takes it within a moment."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def leave() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):  # nobody waits any more, and the loop is closed
                loop.call_soon_threadsafe(done.set)

        threading.Thread(target=leave, daemon=True, name="traces").start()  # a thread that nobody has to wait for
        try:
            async with asyncio.timeout(_TIME_TO_LEAVE):
                await done.wait()
        except TimeoutError:
            _log.warning("the collector of traces is too slow: what was still in the queue is lost")

    def _export(self, span: Span) -> None:
        self._ids.place = span.place
        parent = NonRecordingSpan(self._context(span.parent)) if span.parent is not None else None
        made = self._tracer.start_span(
            span.name,
            context=set_span_in_context(parent) if parent is not None else None,
            attributes=dict(span.attributes),
            links=[Link(self._context(span.link))] if span.link is not None else [],
            start_time=_nanoseconds(span.start),
        )
        for moment in span.moments:
            made.add_event(moment.name, dict(moment.attributes), _nanoseconds(moment.at))
        if span.error:
            made.set_status(Status(StatusCode.ERROR, span.error))
        made.end(_nanoseconds(span.end))

    def _context(self, place: Place) -> SpanContext:
        """Of a span of a trace that is sampled, or not, as the sampler has it."""
        sampled = self._provider.sampler.should_sample(None, place.trace, "").decision is Decision.RECORD_AND_SAMPLE
        flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
        return SpanContext(place.trace, place.span, is_remote=False, trace_flags=flags)


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)

"""The web application: limits, token, health, metrics, and the way of a request to the batcher.

GET  /ping /health   200 while the process lives       GET /version   MLflow's
GET  /ready          200 while a model answers         GET /model     what answers
POST /invocations    the scoring protocol              GET /metrics   Prometheus
"""

import asyncio
import contextlib
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from conf.names import printable
from pipeline.jobs.batching import Batcher
from pipeline.jobs.protocol import Limits, Refused, knows, read, written

OPEN = ("/ping", "/health", "/ready")  # for probes, which have no token
MODEL_HEADER = "X-Recurra-Model"


@dataclass(frozen=True)
class Serving:
    """What the application needs.

    Attributes:
        batcher: answers.
        limits: of requests.
        mlflow_version: told at /version.
        about: what /model says of the version that answers.
        token: asked of whoever wants answers; None: of nobody.
        hosts: names that requests may call this server by; none: any.
        begin: work that goes on beside requests.
        log: told of each request.
    """

    batcher: Batcher
    limits: Limits
    mlflow_version: str
    about: Callable[[], Mapping[str, Any]]
    token: str | None
    hosts: tuple[str, ...]
    begin: Callable[[], Awaitable[None]]
    log: Callable[[str], None]


class _Counts:
    """Numbers for Prometheus, of this server alone."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        self.requests = Counter("recurra_requests_total", "Requests by status.", ["status"], registry=own)
        self.rows = Counter("recurra_rows_total", "Rows answered.", registry=own)
        self.seconds = Histogram("recurra_request_seconds", "Time from request to answer.", registry=own)


def application(serving: Serving) -> Starlette:
    """The ASGI application."""
    counts = _Counts()

    async def invocations(request: Request) -> Response:
        body = await _body(request, serving.limits.max_bytes)
        asked = await asyncio.to_thread(read, body, request.headers.get("content-type", ""), serving.limits)
        try:
            answers, uri = await asyncio.wait_for(serving.batcher.answer(asked), serving.limits.timeout)
        except TimeoutError:
            told = f"no answer within {serving.limits.timeout:g} s"
            raise Refused(504, "DEADLINE_EXCEEDED", told) from None
        counts.rows.inc(asked.num_rows)
        content = await asyncio.to_thread(written, answers)
        return Response(content, media_type="application/json", headers={MODEL_HEADER: uri})

    async def ready(request: Request) -> Response:
        if serving.batcher.model is None:
            raise Refused(503, "TEMPORARILY_UNAVAILABLE", "no model answers yet, or any more")
        return PlainTextResponse("ready\n")

    async def alive(request: Request) -> Response:
        return PlainTextResponse("\n")

    async def version(request: Request) -> Response:
        return PlainTextResponse(serving.mlflow_version)

    async def model(request: Request) -> Response:
        await ready(request)
        return JSONResponse(dict(serving.about()))

    async def metrics(request: Request) -> Response:
        return PlainTextResponse(generate_latest(counts.registry), media_type="text/plain; version=0.0.4")

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        beside = asyncio.ensure_future(serving.begin())
        yield
        beside.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await beside
        await serving.batcher.stop()

    guarded = _Guard(serving, counts)
    routes = [
        Route("/invocations", guarded(invocations), methods=["POST"]),
        Route("/ping", guarded(alive)),
        Route("/health", guarded(alive)),
        Route("/ready", guarded(ready)),
        Route("/version", guarded(version)),
        Route("/model", guarded(model)),
        Route("/metrics", guarded(metrics)),
    ]
    hosts = [Middleware(TrustedHostMiddleware, allowed_hosts=list(serving.hosts))] if serving.hosts else []
    return Starlette(routes=routes, middleware=hosts, lifespan=lifespan)


Endpoint = Callable[[Request], Awaitable[Response]]


class _Guard:
    """Puts token, errors, counting and the log around an endpoint."""

    def __init__(self, serving: Serving, counts: _Counts) -> None:
        self.serving, self.counts = serving, counts

    def __call__(self, endpoint: Endpoint) -> Endpoint:
        async def guarded(request: Request) -> Response:
            begun = time.monotonic()
            response = await self._answered(endpoint, request)
            seconds = time.monotonic() - begun
            path = request.url.path
            self.counts.requests.labels(str(response.status_code)).inc()
            if path == "/invocations":
                self.counts.seconds.observe(seconds)
            client = request.client.host if request.client else "-"
            told = f"{client} {request.method} {path} {response.status_code} {1000 * seconds:.1f} ms"
            self.serving.log(printable(told))
            return response

        return guarded

    async def _answered(self, endpoint: Endpoint, request: Request) -> Response:
        try:
            if request.url.path not in OPEN:
                self._check_token(request)
            return await endpoint(request)
        except Refused as error:
            return _refusal(error)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it
        except Exception:
            traceback.print_exc()
            return _refusal(Refused(500, "INTERNAL_ERROR", "a bug of ours; the server's log has more"))

    def _check_token(self, request: Request) -> None:
        token, shown = self.serving.token, request.headers.get("authorization", "")
        if token is not None and not knows(shown, token):
            raise Refused(401, "UNAUTHENTICATED", "the token is missing or another one")


def _refusal(error: Refused) -> Response:
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error.to_json(), status_code=error.status, headers=headers)


async def _body(request: Request, most: int) -> bytes:
    """The body, of which no more than `most` bytes are kept.

    Raises:
        Refused: it is larger.
    """
    told = Refused(413, "TOO_LARGE", f"the body has more than {most:,} bytes")
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > most:
        raise told
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise told
        parts.append(part)
    return b"".join(parts)

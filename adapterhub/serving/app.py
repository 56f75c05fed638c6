"""The application that any ASGI server runs."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from adapterhub.errors import AdapterHubError
from adapterhub.runtime.engine import Runtime
from adapterhub.runtime.planner import check_plane
from adapterhub.serving.a1111 import WebUiApi
from adapterhub.serving.adapters import AdaptersApi
from adapterhub.serving.failures import json_answer, on_error
from adapterhub.serving.gate import Gate
from adapterhub.serving.generate import GenerateApi
from adapterhub.serving.limits import RequestLimits
from adapterhub.serving.live_jobs import LiveJobs
from adapterhub.serving.metrics import Metrics
from adapterhub.serving.openai import OpenAiApi
from adapterhub.serving.page import Page
from adapterhub.serving.secret import Secret

CLIENT_CLOSED = 499
"""Nobody reads it; logs know it from nginx."""


def make_app(
    runtime: Runtime,
    *,
    secret: Secret | None = None,
    limits: RequestLimits | None = None,
    plane: str | None = None,
) -> Starlette:
    """Return a runtime as an ASGI application; closing the runtime stays with the caller.

    Args:
        runtime: What makes pictures. Requests ask for compositions of their own; what is composed in it
            plays no part.
        secret: What clients must send. Without one only requests to `localhost` are served.
        limits: What one request may ask for.
        plane: `fused`, `low_rank` or `mixed` for requests that name none; None for the best.

    Raises:
        PlaneError: There is no such plane.

    Example:
        >>> with Runtime.load("mini", device="cpu") as runtime:
        ...     app = make_app(runtime, secret=Secret("opensesame"))
        >>> app.url_path_for("generate")
        '/v1/generate'
    """
    check_plane(plane)
    limits = limits or RequestLimits()
    metrics = Metrics()
    live = LiveJobs(runtime, metrics)
    ours = GenerateApi(runtime, live, limits, plane=plane)
    known = AdaptersApi(runtime, limits)
    openai = OpenAiApi(runtime, live, limits, plane=plane)
    web_ui = WebUiApi(runtime, live, limits, plane=plane)

    async def health(request: Request) -> Response:
        """Say that pictures can be drawn, and of what size they are."""
        del request
        size = runtime.default_size  # raises if the runtime is closed
        return json_answer({"status": "ok", "size": size})

    async def measure(request: Request) -> Response:
        """Answer with counts and times, as Prometheus reads them."""
        del request
        return PlainTextResponse(metrics.text(runtime, live), media_type="text/plain; version=0.0.4")

    async def gone(request: Request, error: Exception) -> Response:
        del request, error
        return Response(status_code=CLIENT_CLOSED)

    routes = [
        Route("/", Page().page, name="page"),
        Route("/healthz", health),
        Route("/metrics", measure),
        Route("/v1/generate", ours.generate, methods=["POST"], name="generate"),
        Route("/v1/adapters", known.adapters),
        Route("/v1/runtime", known.runtime),
        Route("/v1/images/generations", openai.images, methods=["POST"]),
        Route("/v1/models", openai.models),
        Route("/sdapi/v1/txt2img", web_ui.txt2img, methods=["POST"]),
        Route("/sdapi/v1/interrupt", web_ui.interrupt, methods=["POST"]),
        Route("/sdapi/v1/options", web_ui.options, methods=["GET"]),
        Route("/sdapi/v1/options", web_ui.set_options, methods=["POST"]),
        Route("/sdapi/v1/progress", web_ui.progress),
        Route("/sdapi/v1/sd-models", web_ui.models),
        Route("/sdapi/v1/loras", web_ui.loras),
        Route("/sdapi/v1/samplers", web_ui.samplers),
        Route("/sdapi/v1/schedulers", web_ui.schedulers),
        Route("/sdapi/v1/scripts", web_ui.scripts),
        *(Route(f"/sdapi/v1/{name}", web_ui.nothing) for name in ("upscalers", "sd-vae", "prompt-styles")),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Gate, secret=secret)],
        exception_handlers={
            AdapterHubError: on_error,
            HTTPException: on_error,
            ClientDisconnect: gone,
            Exception: on_error,
        },
    )

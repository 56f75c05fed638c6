"""Errors as answers: the one table of HTTP statuses, and the shapes that clients of each dialect read."""

import json
import math
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from adapterhub import errors
from adapterhub.errors import AdapterHubError, JobCancelledError, QueueFullError
from adapterhub.serving import errors as serving
from adapterhub_registry.errors import FieldError, TombstoneError

STATUSES: tuple[tuple[type[AdapterHubError], int], ...] = (
    (serving.BodyError, 400),
    (serving.UnauthorizedError, 401),
    (serving.HostRefusedError, 403),
    (errors.AdapterNotFoundError, 404),
    (errors.VersionNotFoundError, 404),
    (errors.AdapterNameError, 404),
    (TombstoneError, 404),
    (serving.BodySizeError, 413),
    (serving.UnknownFieldsError, 422),
    (errors.SettingError, 422),
    (errors.CompositionError, 422),
    (errors.ReferenceSyntaxError, 422),
    (errors.PromptError, 422),
    (errors.PlaneError, 422),
    (errors.ArchitectureError, 422),
    (errors.TargetError, 422),
    (errors.NotFiniteError, 422),
    (errors.WeightsError, 422),
    (errors.FormatError, 422),
    (errors.BlockWeightsError, 422),
    (errors.LayersError, 422),
    (errors.ConversionError, 422),
    (errors.PictureFormatError, 422),
    (FieldError, 422),
    (errors.QueueFullError, 429),
    (errors.JobCancelledError, 503),
    (errors.RuntimeClosedError, 503),
    (errors.DeadlineError, 504),
    (errors.PictureMemoryError, 507),
    (errors.ResidencyError, 507),
)
"""The first class that fits decides; what fits none is a fault on our side, 500."""
OPENAI_PARAMS = {"the size": "size", "count": "n"}
OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def json_answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return JSON in ASCII, so that any text can be sent."""
    return Response(json.dumps(content), status, headers, "application/json")


def describe(error: Exception) -> dict[str, str]:
    """Return code and message of an error; of one that nobody expected nothing that it says."""
    if isinstance(error, AdapterHubError):
        return {"code": error.code, "message": str(error)}
    if isinstance(error, HTTPException):
        return {"code": f"http-{error.status_code}", "message": error.detail}
    return {"code": "internal", "message": "something went wrong here; the server's log says what"}


def status_of(error: Exception) -> int:
    """Return the HTTP status of an error."""
    if isinstance(error, HTTPException):
        return error.status_code
    return next((status for kind, status in STATUSES if isinstance(error, kind)), 500)


def failure(path: str, error: Exception) -> Response:
    """Return the answer to a request that failed, in the shape that clients of its path read."""
    status, said = status_of(error), describe(error)
    content: dict[str, Any] = {**said}
    headers: dict[str, str] = {}
    if path.startswith(("/v1/images", "/v1/models")):
        status = 400 if status == 422 else status  # OpenAI's clients know no other for what makes no sense
        kind = OPENAI_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
        param = error.setting if isinstance(error, errors.SettingError) else None
        content = {"error": {**said, "type": kind, "param": OPENAI_PARAMS.get(param or "", param)}}
    elif path.startswith("/sdapi"):
        content["detail"] = said["message"]
    if isinstance(error, QueueFullError):
        headers["Retry-After"] = str(max(math.ceil(error.retry_after_s), 1))
    if isinstance(error, JobCancelledError | errors.RuntimeClosedError):
        headers["Retry-After"] = "10"
    if status == 401:
        headers["WWW-Authenticate"] = "Basic" if path.startswith("/sdapi") else "Bearer"
    return json_answer(content, status, headers)


async def on_error(request: Request, error: Exception) -> Response:
    """Answer a request that failed; Starlette calls this."""
    return failure(request.url.path, error)

"""Errors as clients see them: the OpenAI error shape on every route, whatever went wrong."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from http import HTTPStatus

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from gateway.fold import LogLost, error_object
from gateway.rate_limits import RateLimited
from shared.errors import BadRequest, FabricError, FabricUnavailable, HeadstartError, NotDurable, NotFound, Refused
from shared.messages import LogEnd
from shared.types import Phase

log = logging.getLogger(__name__)

NO_RETRY = {"x-should-retry": "false"}
"""What the official client obeys: without it, it sends a POST again after 409 and 5xx."""


class Unauthorized(HeadstartError):
    """No API key, or not one of ours."""


class Conflict(HeadstartError):
    """The idempotency key is known with another body."""


class OtherVersion(HeadstartError):
    """The pool's scheduler is of a release that this gateway does not speak with: an operator must upgrade one of them."""


class NotYet(HeadstartError):
    """What was asked for needs a request's end, which has not come: the same call may succeed in a moment."""


class RequestEnded(HeadstartError):
    """A request that a client waits for without a stream ended without an answer."""

    def __init__(self, end: LogEnd) -> None:
        super().__init__(end.error or ("The request was cancelled." if end.phase is Phase.CANCELLED else "The request failed."))
        self.end = end


def error_response(
    status: int, message: str, code: str | None, param: str | None = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    return JSONResponse(error_object(message, _kind(status), code, param), status, headers)


def _kind(status: int) -> str:
    kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error", 503: "overloaded_error"}
    return kinds.get(status, "invalid_request_error" if status < 500 else "server_error")


def answer_to(error: HeadstartError) -> JSONResponse:
    """The HTTP answer that an error of the project's tree deserves."""
    match error:
        case NotFound():
            return error_response(404, str(error), error.code or "not_found", error.param)
        case BadRequest():
            return error_response(400, str(error), error.code or "invalid_value", error.param)
        case Refused():
            status, code = (503, "no_memory") if error.memory else (429, "too_many_requests")
            return error_response(status, str(error), code, headers={"Retry-After": str(math.ceil(error.retry_after_s))})
        case OtherVersion():
            return error_response(503, str(error), "other_version", headers={"Retry-After": "30"})
        case RateLimited():
            code = "request_too_large" if error.too_large else "rate_limit_exceeded"
            return error_response(429, str(error), code, headers=error.headers)
        case Unauthorized():
            return error_response(401, str(error), "invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        case Conflict():
            return error_response(409, str(error), "idempotency_conflict", headers=NO_RETRY)
        case NotYet():
            return error_response(409, str(error), "not_ended", headers={"Retry-After": "1"})
        case RequestEnded():
            return _ended(error)
        case LogLost():
            return error_response(500, str(error), error.code, headers=NO_RETRY)
        case NotDurable():
            why = "The message server has not made the request safe yet; send it again, with the same Idempotency-Key if it has one."
            return error_response(503, why, "not_durable", headers={"Retry-After": "2"})
        case FabricUnavailable():
            return error_response(503, "The message server cannot be reached; try again.", "unavailable", headers={"Retry-After": "1"})
        case FabricError():
            return error_response(500, "The message server gave an answer that is not understood.", "fabric_error", headers=NO_RETRY)
    return error_response(500, "Internal error.", "internal_error", headers=NO_RETRY)


def _ended(error: RequestEnded) -> JSONResponse:
    if error.end.phase is Phase.CANCELLED:
        return error_response(409, str(error), "request_cancelled", headers=NO_RETRY)
    code = error.end.code or "request_failed"
    return error_response(504 if code == "timeout" else 500, str(error), code, headers=NO_RETRY)


_CODES = {
    "missing": "missing_required_parameter",
    "extra_forbidden": "unknown_parameter",
    "unsupported_parameter": "unsupported_parameter",
    "json_invalid": "invalid_json",
}


def explain_validation(errors: Sequence[dict[str, object]]) -> tuple[str, str | None, str]:
    """`(message, param, code)` of the first thing wrong with a request."""
    first = errors[0]
    kind, where = str(first["type"]), first["loc"]
    path = tuple(where)[1:] if isinstance(where, tuple | list) else ()
    if kind == "json_invalid":
        context = first.get("ctx")
        reason = context.get("error", "") if isinstance(context, dict) else ""
        return f"The body is not valid JSON: {reason} at character {path[0] if path else 0}.", None, "invalid_json"
    param = _dotted(path)
    code = _CODES.get(kind, "invalid_type" if kind.endswith("_type") else "invalid_value")
    if not path:
        return "A JSON object is needed as the body.", None, code
    if kind == "extra_forbidden":
        return f"Unknown parameter: '{param}'.", param, code
    if kind == "missing":
        return f"Missing required parameter: '{param}'.", param, code
    return f"Invalid '{param}': {first['msg']}.", param, code


def _dotted(path: tuple[object, ...]) -> str | None:
    """`("messages", 0, "role")` -> `messages[0].role`."""
    text = ""
    for step in path:
        if step == "[key]":  # what is wrong is the name itself, which the step before has told
            continue
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text or None


def install_error_handlers(app: FastAPI) -> None:
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(StarletteHTTPException, _on_http)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(HeadstartError, _on_own)
    app.add_exception_handler(Exception, _on_bug)


async def _on_validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    message, param, code = explain_validation(error.errors())
    return error_response(400, message, code, param)


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, StarletteHTTPException)
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    if error.status_code == 400 and not isinstance(error.__cause__, HeadstartError):
        # FastAPI's own 400: the body could not be read as JSON at all (invalid UTF-8, absurd nesting or numbers).
        return error_response(400, "The body is not valid JSON in UTF-8.", "invalid_json")
    return error_response(error.status_code, str(error.detail), code, headers=dict(error.headers or {}))


async def _on_own(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HeadstartError)
    answer = answer_to(error)
    if answer.status_code >= 500:
        log.warning("%s %s: %s", request.method, request.url.path, error)
    return answer


async def _on_bug(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s", request.method, request.url.path, exc_info=error)
    return error_response(500, "Internal error.", "internal_error", headers=NO_RETRY)

"""Errors as OpenAI's clients expect them: a status, and one sentence."""

from collections.abc import Mapping
from typing import Any

from fromzero.errors import UserError
from fromzero.inference.request import Overloaded, Unavailable

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "unavailable_error",
}


class ApiError(Exception):
    """What a request is answered with when it can't be answered. param: the field that was wrong."""

    def __init__(
        self, status: int, message: str, param: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.headers = status, message, param, dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """As JSON says it."""
        kind = TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.status}}


def bad(message: str, param: str | None = None) -> ApiError:
    """A request that is wrong."""
    return ApiError(400, message, param)


def as_api_error(error: Exception) -> ApiError:
    """What an exception means for who asked."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, Overloaded):
        return ApiError(429, str(error), headers={"Retry-After": "1"})
    if isinstance(error, Unavailable):
        return ApiError(503, str(error), headers={"Retry-After": "5"})
    if isinstance(error, UserError):
        return bad(str(error))
    return ApiError(500, "the server failed at this; its log says more")

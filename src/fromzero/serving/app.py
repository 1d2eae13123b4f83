"""The routes."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from fromzero import __version__
from fromzero.errors import UserError, nearest
from fromzero.serving import schema, texts
from fromzero.serving.adapters import add_adapter_routes
from fromzero.serving.answers import ClientGoneError, Job, respond, while_connected
from fromzero.serving.chat import chat_job
from fromzero.serving.completions import completion_job
from fromzero.serving.errors import ApiError, as_api_error, bad
from fromzero.serving.guard import Guard
from fromzero.serving.page import add_page, page_files
from fromzero.serving.service import Service

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": what}
    for status, what in {
        400: "the request is wrong",
        401: "no key, or a wrong one",
        403: "asked under a strange name",
        404: "no such model, or path",
        413: "the body is too long",
        415: "the body is not JSON",
        422: "this model can't do that",
        429: "too many wait already",
        500: "a fault of the server",
        503: "loading, or stopping",
    }.items()
}


def build_app(service: Service) -> ASGIApp:
    """The application that serves it. Raises UserError for a key that can't be one."""
    app = FastAPI(title="fromzero", version=__version__, docs_url=None, redoc_url=None)
    for kind in (Exception, UserError, ApiError, RequestValidationError, HTTPException, ClientGoneError):
        app.add_exception_handler(kind, _answer_error)
    _add_model_routes(app, service)
    _add_text_routes(app, service)
    _add_state_routes(app, service)
    if service.config.allow_adapter_loading is not None:
        add_adapter_routes(app, service, service.config.allow_adapter_loading)
    add_page(app)
    public = {"/health", *page_files()}
    guarded: ASGIApp = Guard(app, service, public)
    origins = list(service.config.cors_origins)
    if origins:
        guarded = CORSMiddleware(
            guarded, origins, allow_methods=("GET", "POST"), allow_headers=("authorization", "content-type")
        )
    return guarded


async def _answer_error(http: HttpRequest, error: Exception) -> Response:
    if isinstance(error, ClientGoneError):
        return Response(status_code=499)
    if isinstance(error, RequestValidationError):
        error = _wrong_field(error)
    if isinstance(error, HTTPException):
        what = {404: "there is no such path here", 405: f"{http.method} is not for this path"}
        error = ApiError(error.status_code, what.get(error.status_code, str(error.detail)), headers=error.headers)
    told = as_api_error(error)
    return JSONResponse(told.body, told.status, told.headers)


def _wrong_field(error: RequestValidationError) -> ApiError:
    """The first thing that is wrong, in a sentence."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"] if part != "body"]
    field = ".".join(place)
    if first["type"] == "extra_forbidden":
        known = {name for model in vars(schema).values() for name in _fields(model)}
        return bad(f"unknown field '{field[:100]}'{_close(place[-1], known)}", field)
    if not place:
        return bad("the body should be a JSON object")
    return bad(f"{field[:100]}: {first['msg'][:200]}", field)


def _fields(model: Any) -> list[str]:
    if not (isinstance(model, type) and issubclass(model, schema.Strict)):
        return []
    return [info.alias or name for name, info in model.model_fields.items()]


def _close(name: str, known: set[str]) -> str:
    hint = "" if name in known else nearest(name[:100], known)  # known to another path
    return hint if "did you mean" in hint else ""


def _add_model_routes(app: FastAPI, service: Service) -> None:
    async def answer(http: HttpRequest, job: Awaitable[Job]) -> Response:
        return await respond(http, service, await while_connected(http, job))

    @app.post("/v1/chat/completions", responses=ERRORS, response_model=None)
    async def chat_completions(http: HttpRequest, body: schema.ChatRequest) -> Response:
        service.adapter(body.model)
        return await answer(http, chat_job(service, body, f"chatcmpl-{http.scope['fromzero']['id']}"))

    @app.post("/v1/completions", responses=ERRORS, response_model=None)
    async def completions(http: HttpRequest, body: schema.CompletionRequest) -> Response:
        service.adapter(body.model)
        return await answer(http, completion_job(service, body, f"cmpl-{http.scope['fromzero']['id']}"))

    @app.api_route("/v1/responses", methods=["GET", "POST"], include_in_schema=False)
    async def responses() -> None:
        raise ApiError(404, "/v1/responses is not offered; ask /v1/chat/completions")


def _add_text_routes(app: FastAPI, service: Service) -> None:
    def route(path: str, work: Callable[[Service, Any], Awaitable[dict[str, Any]]], kind: Any) -> None:
        async def endpoint(body: Any) -> dict[str, Any]:
            if service.adapter(body.model) and work in (texts.embeddings, texts.classify):
                raise ApiError(422, f"'{body.model}' is an adapter; ask the model without it for that", "model")
            return await work(service, body)

        endpoint.__annotations__["body"] = kind
        endpoint.__name__ = work.__name__
        app.post(path, responses=ERRORS)(endpoint)

    route("/v1/embeddings", texts.embeddings, schema.EmbeddingRequest)
    route("/classify", texts.classify, schema.ClassifyRequest)
    route("/tokenize", texts.tokenize, schema.TokenizeRequest)
    route("/detokenize", texts.detokenize, schema.DetokenizeRequest)

    @app.get("/tokenizer_info", responses=ERRORS)
    async def tokenizer_info() -> dict[str, Any]:
        return texts.tokenizer_info(service)


def _add_state_routes(app: FastAPI, service: Service) -> None:
    base = service.config.served_name

    def described(name: str) -> dict[str, Any]:
        known = {"id": name, "object": "model", "created": service.made, "owned_by": "fromzero", "root": name}
        known |= {"parent": None if name == base else base, "max_model_len": service.context}
        return {**known, "capabilities": [c for c in service.capabilities if name == base or c != "embedding"]}

    @app.get("/v1/models", responses=ERRORS)
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [described(name) for name in (base, *service.adapters)]}

    @app.get("/v1/models/{model:path}", responses=ERRORS)
    async def model(model: str) -> dict[str, Any]:
        service.adapter(model)
        return described(model)

    @app.get("/health", responses=ERRORS)
    async def health() -> dict[str, str]:
        if problem := service.problem():
            raise ApiError(503, problem)
        return {"status": "ok"}

    @app.get("/version", responses=ERRORS)
    async def version() -> dict[str, str]:
        return {"version": __version__}

    @app.get("/metrics", responses=ERRORS, response_class=Response)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

"""Loading and unloading adapters while the server runs, by vLLM's routes.

Paths are of clients: what they name must lie below the folder that the settings allow, also when links are followed.
"""

import asyncio
from pathlib import Path

from fastapi import FastAPI

from fromzero.errors import UserError
from fromzero.inference.adapted import Adapter
from fromzero.model import Transformer
from fromzero.serving.errors import ApiError, bad
from fromzero.serving.schema import LoadRequest, UnloadRequest
from fromzero.serving.service import Service


def add_adapter_routes(app: FastAPI, service: Service, below: Path) -> None:
    """Answers that are being made go on with an adapter which is unloaded meanwhile."""
    one_at_a_time = asyncio.Lock()

    @app.post("/v1/load_lora_adapter")
    async def load(body: LoadRequest) -> dict[str, str]:
        name, model = body.lora_name, service.streams.engine.model if service.streams else None
        async with one_at_a_time:
            if name in (service.config.served_name, *service.adapters):
                raise bad(f"there is a model '{name}' already; unload it first, or choose another name", "lora_name")
            if len(service.adapters) >= (most := service.config.limits.adapters):
                raise bad(f"there are {most} adapters already, which are most; unload one first")
            if not isinstance(model, Transformer):
                raise ApiError(422, "adapters are for decoders")
            folder = _below(below, body.lora_path)
            try:
                read = asyncio.to_thread(Adapter.read, name, folder, model, service.config.model)
                service.adapters[name] = await read
            except UserError as error:
                raise bad(str(error).replace(str(folder), body.lora_path), "lora_path") from None
        return {"status": "loaded", "id": name}

    @app.post("/v1/unload_lora_adapter")
    async def unload(body: UnloadRequest) -> dict[str, str]:
        if service.adapters.pop(body.lora_name, None) is None:
            raise ApiError(404, f"there is no adapter '{body.lora_name}' here", "lora_name")
        return {"status": "unloaded", "id": body.lora_name}


def _below(below: Path, given: str) -> Path:
    """The folder that a client names. Raises ApiError for one that is elsewhere, or not there: alike, so that nobody
    learns what there is."""
    try:
        folder = (below / given).resolve()
        inside = folder.is_relative_to(below.resolve()) and folder.is_dir()
    except (OSError, ValueError, RuntimeError):
        inside = False
    if not inside:
        raise ApiError(404, "lora_path names no folder below the one that adapters are loaded from", "lora_path")
    return folder

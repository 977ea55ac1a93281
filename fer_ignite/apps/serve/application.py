"""The service's HTTP interface: POST /predict, GET /health, GET /metrics."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

import fer_ignite
from fer_ignite.apps.serve.batcher import Batcher, Busy
from fer_ignite.apps.serve.limits import AllowedHosts, RateLimit, read_body
from fer_ignite.apps.serve.metrics import ServiceMetrics
from fer_ignite.data.images import printable, read_image_bytes
from fer_ignite.errors import DataError
from fer_ignite.inference.predictor import Prediction

__all__ = ["ServiceLimits", "build_application"]

_DECODED_AT_ONCE = 4  # requests; each may hold its limit of pixels

logger = logging.getLogger("fer_ignite")


@dataclass(frozen=True)
class ServiceLimits:
    """Of a request: bytes, pictures, and their pixels together; of a client: requests per minute, 0 = any number."""

    max_bytes: int = 20_000_000
    max_images: int = 64
    max_pixels: int = 100_000_000
    per_minute: int = 600


def build_application(
    batcher: Batcher, *, network: str, limits: ServiceLimits, hosts: frozenset[str]
) -> FastAPI:
    """The ASGI application.

    Args:
        network: what /health calls the network.
        hosts: names by which the service may be called; empty allows any. Stops pages elsewhere that let their own name
            point to this machine (DNS rebinding).
    """
    # No docs pages: FastAPI's load their scripts from a CDN.
    application = FastAPI(
        title="fer_ignite", version=fer_ignite.__version__, docs_url=None, redoc_url=None
    )
    if hosts:
        application.add_middleware(AllowedHosts, hosts=hosts)
    rate, metrics = RateLimit(limits.per_minute), ServiceMetrics()
    decoding = asyncio.Semaphore(_DECODED_AT_ONCE)
    classes = list(batcher.predictor.classes)

    @application.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "network": network, "classes": classes}

    @application.get("/metrics")
    async def prometheus() -> PlainTextResponse:
        return PlainTextResponse(metrics.text(), media_type="text/plain; version=0.0.4")

    @application.post("/predict")
    async def predict(request: Request) -> JSONResponse:
        started = time.monotonic()
        try:
            # Before the body is read: a refused request costs neither memory nor parsing.
            wait_s = rate.wait_s(request.client.host if request.client else "")
            if wait_s:
                raise HTTPException(
                    429, "too many requests; wait", headers={"Retry-After": str(round(wait_s) + 1)}
                )
            uploads = await _uploads(request, limits)
            results: list[dict[str, Any]] = [
                {"file": printable(name), "faces": [], "error": None} for name, _ in uploads
            ]
            async with decoding:
                # In a thread: decoding would hold up all other requests, /health among them.
                pictures = await run_in_threadpool(
                    _decode, uploads, results, most_pixels=limits.max_pixels
                )
            await _answer(pictures, results, batcher=batcher)
        except HTTPException as refusal:
            metrics.count(refusal.status_code)
            raise
        except Exception:
            metrics.count(500)
            # Here: uvicorn's own log is off.
            logger.exception("POST /predict is answered with 500.")
            raise
        faces = sum(len(result["faces"]) for result in results)
        seconds = time.monotonic() - started
        metrics.count(200, pictures=len(results), faces=faces, seconds=seconds)
        return JSONResponse({"results": results})

    return application


async def _uploads(request: Request, limits: ServiceLimits) -> list[tuple[str, bytes]]:
    """Names and bytes of the pictures: parts of a form, or the body itself."""
    # Read whole before it is parsed: Starlette's parser does not limit the bytes of files.
    body = await read_body(request, limits.max_bytes)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        uploads = await _parts(request, body, limits=limits)
    elif kind.startswith("image/") or kind == "application/octet-stream":
        uploads = [("body", body)]
    else:
        raise HTTPException(
            415, "send pictures as multipart/form-data, or one as the body with its image/... type"
        )
    if not uploads:
        raise HTTPException(422, "the form has no picture; send one or several as files")
    return uploads


async def _parts(
    request: Request, body: bytes, *, limits: ServiceLimits
) -> list[tuple[str, bytes]]:
    class InMemory(MultiPartParser):
        spool_max_size = limits.max_bytes + 1  # no picture is written to a disk

    async def once() -> AsyncGenerator[bytes, None]:
        yield body

    parser = InMemory(request.headers, once(), max_files=limits.max_images, max_fields=16)
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        text = str(getattr(error, "message", "")) or "the form can't be read"
        raise HTTPException(
            422, f"{text}; at most {limits.max_images} pictures are taken"
        ) from None
    try:
        parts = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        return [(part.filename or "picture", await part.read()) for part in parts]
    finally:
        await form.close()


async def _answer(
    pictures: dict[int, Any], results: list[dict[str, Any]], *, batcher: Batcher
) -> None:
    """Enters the pictures' faces into their results.

    Args:
        pictures: by their places in ``results``.
    Raises:
        HTTPException: no picture could be read, or the service is busy.
    """
    if pictures:
        try:
            answered = await asyncio.wrap_future(batcher.submit(list(pictures.values())))
        except Busy:
            raise HTTPException(
                503, "the service is busy; try again", headers={"Retry-After": "1"}
            ) from None
        for place, faces in zip(pictures, answered, strict=True):
            results[place]["faces"] = [_face(face) for face in faces if face.error is None]
            if not results[place]["faces"]:
                # Such as a photograph without a face. The batch has names of its own, which the client has not sent.
                error = (faces[0].error or "").removeprefix(f"{faces[0].file}: ")
                results[place]["error"] = f"{results[place]['file']}: {error}"
    else:
        raise HTTPException(422, results[0]["error"])


def _decode(
    uploads: list[tuple[str, bytes]], results: list[dict[str, Any]], *, most_pixels: int
) -> dict[int, Any]:
    """The pictures by place; one that can't be read gets its error in ``results``.

    Raises:
        HTTPException: 413, as soon as those that are read have more pixels together.
    """
    pictures, pixels = {}, 0
    for place, (name, data) in enumerate(uploads):
        try:
            picture = read_image_bytes(data, name=printable(name))
        except DataError as error:
            results[place]["error"] = str(error)
            continue
        # A picture of one colour has a thousand pixels per byte: the limit of bytes bounds no memory.
        pixels += picture.width * picture.height
        if pixels > most_pixels:
            raise HTTPException(
                413,
                f"a request's pictures have at most {most_pixels} pixels together; send fewer or smaller pictures",
            )
        pictures[place] = picture
    return pictures


def _face(face: Prediction) -> dict[str, Any]:
    return {
        "label": face.label,
        "probability": face.probability,
        "probabilities": face.probabilities,
        "box": None if face.box is None else face.box._asdict(),
    }

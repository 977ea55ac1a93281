"""Images per second through the HTTP service, as a share of plain onnxruntime's in the same run.

Both decode the same PNG files of 48 px with Pillow and run the same exported file with the same views; the service adds HTTP,
form parsing, the batcher and JSON, and shares the cores with its client.
"""

import argparse
import asyncio
import io
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np
import onnxruntime
from PIL import Image

from fer_ignite.data.drawn_faces import draw_faces
from fer_ignite.weights import shipped_checkpoint

PER_REQUEST, CLIENTS = 32, 4


def encoded_faces(count: int) -> list[bytes]:
    faces_NHW1, _ = draw_faces(count, seed=0)
    files = []
    for face_HW1 in faces_NHW1:
        file = io.BytesIO()
        Image.fromarray(face_HW1[:, :, 0]).save(file, "PNG")
        files.append(file.getvalue())
    return files


def plain(session: onnxruntime.InferenceSession, files: list[bytes]) -> float:
    """Images per second of decoding and running batches of 32."""
    name, started = session.get_inputs()[0].name, time.perf_counter()
    for place in range(0, len(files), PER_REQUEST):
        images = [
            np.asarray(Image.open(io.BytesIO(data)).convert("L"))
            for data in files[place : place + PER_REQUEST]
        ]
        session.run(None, {name: np.stack(images)[..., None]})
    return len(files) / (time.perf_counter() - started)


async def served(address: str, files: list[bytes]) -> float:
    """Images per second of requests with 32 pictures each from four clients at once."""
    waiting = [files[place : place + PER_REQUEST] for place in range(0, len(files), PER_REQUEST)]
    started = time.perf_counter()

    async def post(client: httpx.AsyncClient) -> None:
        while waiting:
            part = waiting.pop()
            uploads = [("files", (f"{place}.png", data)) for place, data in enumerate(part)]
            (await client.post(f"{address}predict", files=uploads)).raise_for_status()

    async with httpx.AsyncClient(timeout=120) as client:
        await asyncio.gather(*(post(client) for _ in range(CLIENTS)))
    return len(files) / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faces", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "model.onnx"
        program = [sys.executable, "-m", "fer_ignite"]
        export = ["export", str(shipped_checkpoint()), "--out", str(file), "--data", "demo:70"]
        subprocess.run([*program, *export, "--quiet"], check=True)
        options = ["--port", "0", "--faces", "never", "--per-minute", "0"]
        server = subprocess.Popen(
            [*program, "serve", str(file), *options], stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout is not None
            address = next(
                found[1] for line in server.stdout if (found := re.search(r"at (\S+)predict", line))
            )
            files = encoded_faces(given.faces)
            session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
            ratios = []
            for round_ in range(given.rounds):
                plainly, by_http = plain(session, files), asyncio.run(served(address, files))
                ratios.append(by_http / plainly)
                print(
                    f"{round_ + 1}: plain {plainly:,.0f}, service {by_http:,.0f} images/s: {ratios[-1]:.2f}"
                )
            print(
                f"service / plain onnxruntime: {statistics.median(ratios):.2f} (median of {given.rounds})"
            )
        finally:
            server.terminate()
            server.wait(timeout=30)


if __name__ == "__main__":
    main()

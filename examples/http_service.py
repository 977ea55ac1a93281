"""A small HTTP service with FastAPI: POST a picture to /predict, get its faces as JSON.

pip install ".[faces]" fastapi uvicorn python-multipart
uvicorn --app-dir examples http_service:app
curl -F file=@photo.jpg http://127.0.0.1:8000/predict
"""

from typing import Any

from fastapi import FastAPI, HTTPException, UploadFile

from fer_ignite import load_model
from fer_ignite.data.images import read_image_bytes
from fer_ignite.errors import DataError

app = FastAPI()
model = load_model()  # the network that comes with the package; or load_model("runs/mine")


@app.post("/predict")
def predict(file: UploadFile) -> list[dict[str, Any]]:
    """One entry per face: label, probabilities by name, and the box where the picture is a whole photograph."""
    try:
        faces = model.predict(read_image_bytes(file.file.read(20_000_000), name="the upload"))
    except DataError as error:
        raise HTTPException(422, str(error)) from None
    return [
        {
            "label": face.label,
            "probabilities": face.probabilities,
            "box": face.box and face.box._asdict(),
        }
        for face in faces
    ]

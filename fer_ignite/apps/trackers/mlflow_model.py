"""MLflow model (pyfunc) of a checkpoint: encoded image files in, expressions and probabilities out."""

import io
from collections.abc import Iterator
from importlib.metadata import requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

__all__ = ["save_mlflow_model"]


def save_mlflow_model(folder: Path, checkpoint: Path) -> None:
    """Writes a model folder for ``mlflow.pyfunc.load_model`` and ``mlflow models serve``.

    Its requirements are this package's, in the versions in use. The package itself is not among them, because no index has
    it: install it where the model is loaded.

    Args:
        folder: must not exist.
        checkpoint: a checkpoint of one of the package's own networks; it is copied to ``folder/data``.
    """
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    mlflow.pyfunc.save_model(
        folder,
        # Not a pickled Python model: loading runs this module on a checkpoint that is read as weights only.
        loader_module=__name__,
        data_path=str(checkpoint),
        pip_requirements=list(_pinned_requirements()),
        signature=ModelSignature(inputs=Schema([ColSpec("binary", "image")])),
    )


def _pinned_requirements() -> Iterator[str]:
    from packaging.requirements import Requirement  # MLflow itself needs it
    from packaging.version import Version

    for entry in map(Requirement, requires("fer_ignite") or ()):
        # Without an extra; a marker may also exclude this Python or system.
        if entry.marker is None or entry.marker.evaluate({"extra": ""}):
            # The public part: no index has the local one, as in torch 2.10.0+cu128.
            yield f"{entry.name}=={Version(version(entry.name)).public}"


class _ImageModel:
    """What MLflow's pyfunc model calls."""

    def __init__(self, path: str) -> None:
        from fer_ignite.inference.loaded_model import load_model

        self._network = load_model(path)

    def predict(self, frame: "pd.DataFrame", params: Any = None) -> "pd.DataFrame":
        """One row per image: ``expression`` and a column of probabilities per class.

        Args:
            frame: its column ``image`` has the bytes of PNG, JPEG or other picture files, each with one face.
        """
        import pandas as pd

        images = [Image.open(io.BytesIO(picture)) for picture in frame["image"]]
        rows = [
            {"expression": found.label, **found.probabilities}
            for found in self._network.predict(images, faces="never")
        ]
        return pd.DataFrame(rows, columns=["expression", *self._network.classes], index=frame.index)


def _load_pyfunc(path: str) -> _ImageModel:
    """MLflow's hook of a loader module."""
    return _ImageModel(path)

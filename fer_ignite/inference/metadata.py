"""Metadata of an exported file: classes, preprocessing, temperature, views, origin; read without torch."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fer_ignite.errors import CheckpointError
from fer_ignite.metrics.temperature_bounds import TEMPERATURES, usable_temperature

__all__ = ["FORMAT", "INPUT", "KEY", "OUTPUT", "ExportMetadata"]

FORMAT = 1
KEY = "fer_ignite"  # of the metadata, as JSON, in every format's own metadata
INPUT, OUTPUT = "faces", "probabilities"

_LARGEST_PX = 4096

_TYPES: Mapping[str, Any] = {
    "classes": list,
    "preprocessing": dict,
    "temperature": (int, float),
    "tta": str,
    "weights": str,
    "network": dict,
    "origin": dict,
}
_PREPROCESSING: Mapping[str, Any] = {
    "image_px": int,
    "resize_px": int,
    "channels": int,
    "mean": list,
    "std": list,
    "resize_mode": str,
}


@dataclass(frozen=True)
class ExportMetadata:
    """Plain values only.

    Args:
        classes: names in the order of the outputs.
        preprocessing: fields of :class:`fer_ignite.data.loader.Preprocessing`.
        temperature: by which logits are divided before the softmax.
        tta: views that are averaged: none, flip, shift10, shift18.
        weights: fp32, fp16 or int8.
        network: name and arguments, for formats that hold no graph.
        origin: the checkpoint's kind, digest, iteration, data and versions.
    """

    classes: tuple[str, ...]
    preprocessing: Mapping[str, Any]
    temperature: float
    tta: str
    weights: str = "fp32"
    network: Mapping[str, Any] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)

    @property
    def side_px(self) -> int:
        """Side to which single faces are fitted before they are given to the network."""
        return int(self.preprocessing.get("stored_px") or self.preprocessing["resize_px"])

    @property
    def channels(self) -> int:
        return int(self.preprocessing["channels"])

    def to_json(self) -> str:
        """ASCII, on one line; with the names and layouts of input and output."""
        values = {"format": FORMAT, **asdict(self), "classes": list(self.classes)}
        shape = ["batch", "height", "width", self.channels]
        # For programs without this package; from_json reads neither input nor output.
        values["input"] = {
            "name": INPUT,
            "dtype": "uint8",
            "shape": shape,
            "range": [0, 255],
            "side_px": self.side_px,
        }
        values["output"] = {
            "name": OUTPUT,
            "dtype": "float32",
            "shape": ["batch", len(self.classes)],
        }
        return json.dumps(values)

    @classmethod
    def from_json(cls, text: str | None, *, name: str) -> "ExportMetadata":
        """What :meth:`to_json` wrote.

        Args:
            name: the file that it was found in, for the error.
        Raises:
            CheckpointError: there is no record, or it doesn't say what it must say.
        """
        if text is None:
            raise CheckpointError(
                f"{name} holds no record of fer-ignite's; give a file that `fer-ignite export` has written."
            )
        try:
            values = json.loads(text)
        except ValueError:
            values = None
        problem = _problem(values)
        if problem:
            raise CheckpointError(
                f"{name}: its record can't be used: {problem}; export the checkpoint again."
            )
        fields = {key: values[key] for key in _TYPES}
        return cls(
            **{
                **fields,
                "classes": tuple(fields["classes"]),
                "temperature": float(fields["temperature"]),
            }
        )


def _problem(values: Any) -> str | None:
    if not isinstance(values, dict):
        return "it is no JSON object"
    if values.get("format") != FORMAT:
        return f"it has format {values.get('format')!r}, this program reads {FORMAT}"
    for part, types in ((values, _TYPES), (values.get("preprocessing"), _PREPROCESSING)):
        for name, kind in types.items():
            if (
                not isinstance(part, dict)
                or not isinstance(part.get(name), kind)
                # bool is a subclass of int.
                or isinstance(part[name], bool)
            ):
                return f"{name!r} is missing or of another type"
    if not values["classes"] or not all(isinstance(name, str) for name in values["classes"]):
        return "'classes' is no list of names"
    if not usable_temperature(values["temperature"]):
        return f"the temperature is {values['temperature']}, not within {TEMPERATURES[0]:g} to {TEMPERATURES[1]:g}"
    sizes = values["preprocessing"]
    stored_px = sizes.get("stored_px", 0)
    if (
        not 1 <= sizes["resize_px"] <= _LARGEST_PX
        or not 1 <= sizes["image_px"] <= _LARGEST_PX
        or not isinstance(stored_px, int)
        or not 0 <= stored_px <= _LARGEST_PX
        or sizes["channels"] not in (1, 3)
    ):
        return "its faces have an impossible size"
    return None

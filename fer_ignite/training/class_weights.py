"""What makes up for rare classes: class weights with mean 1 over the train split, and logit adjustment."""

# Dimensions: K expressions.

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fer_ignite.errors import ConfigError

__all__ = ["class_weights", "logit_adjustment"]


def class_weights(
    kind: str, counts_K: Sequence[float] | Tensor, *, classes: Sequence[str], beta: float = 0.999
) -> Tensor | None:
    """float32 weights_K with sum(counts x weights) = sum(counts); None for ``none``.

    Args:
        kind: ``none``; ``balanced``: 1 / count; ``effective``: (1 - beta) / (1 - beta ** count); or a csv (name,weight)
            or json ({name: weight}) file that names every class.
        counts_K: train images of each class; sums of soft labels are fine. A class without images weighs 1.
        classes: their names, for the file.
        beta: in [0, 1); ``effective`` goes from no weights (0) to balanced ones (towards 1).
    Raises:
        ConfigError: an unknown kind, or a file that can't be read, names other classes, or holds no sensible weights.
    Source: Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", 2019.
    """
    counts = [float(count) for count in counts_K]
    if kind == "none":
        return None
    if kind == "balanced":
        raw = [1 / count if count else 0.0 for count in counts]
    elif kind == "effective":
        if not 0 <= beta < 1:
            raise ConfigError(
                f"beta of the effective class weights is {beta}; it must lie in [0, 1)."
            )
        raw = [(1 - beta) / (1 - beta**count) if count else 0.0 for count in counts]
    else:
        raw = _from_file(kind, classes)
    total = sum(count * weight for count, weight in zip(counts, raw, strict=True))
    if not total > 0:
        raise ConfigError(
            f"--class-weights {kind}: all classes of the train split weigh 0; raise one of them."
        )
    scale = sum(counts) / total
    scaled = [weight * scale if count else 1.0 for count, weight in zip(counts, raw, strict=True)]
    return torch.tensor(scaled, dtype=torch.float32)


def logit_adjustment(strength: float, counts_K: Sequence[float] | Tensor) -> Tensor | None:
    """float32 [K] to add to the logits in the loss: ``strength`` times the log of each class's share; None for 0.

    The network then learns logits without the classes' shares: at a strength of 1 its decisions aim at the mean of the
    recalls, at 0 at the accuracy.

    Args:
        counts_K: train images of each class; a class without images counts as having one.
    Source: Menon et al., "Long-tail learning via logit adjustment", 2021, equation 10.
    """
    if not strength:
        return None
    counts = torch.as_tensor([float(count) for count in counts_K], dtype=torch.float64).clamp_min(1)
    return (strength * (counts / counts.sum()).log()).float()


def _from_file(text: str, classes: Sequence[str]) -> list[float]:
    path = Path(text)
    if not path.is_file():
        raise ConfigError(
            f"--class-weights: {text!r} is neither none, balanced or effective nor an existing csv or json file."
        )
    try:
        # With or without the byte-order mark that spreadsheet programs write.
        content = path.read_text(encoding="utf-8-sig")
        pairs = _json_pairs(content) if path.suffix.lower() == ".json" else _csv_pairs(content)
        weights = {name: float(weight) for name, weight in pairs}
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"--class-weights: {path} can't be read ({error}); write 'name,weight' lines, or {{name: weight}} as json."
        ) from None
    missing, unknown = (
        [c for c in classes if c not in weights],
        [name for name in weights if name not in classes],
    )
    if missing or unknown:
        raise ConfigError(
            f"--class-weights: {path} lacks {missing or 'nothing'} and has {unknown or 'nothing'} beyond the classes "
            f"{', '.join(classes)}; name each of them once."
        )
    bad = [name for name, weight in weights.items() if not math.isfinite(weight) or weight < 0]
    if bad:
        raise ConfigError(
            f"--class-weights: {path} gives {bad[0]} the weight {weights[bad[0]]}; it must be 0 or more."
        )
    return [weights[name] for name in classes]


def _json_pairs(content: str) -> list[tuple[str, float]]:
    values = json.loads(content)
    if not isinstance(values, dict):
        raise ValueError("it holds no object")
    return list(values.items())


def _csv_pairs(content: str) -> list[tuple[str, str]]:
    rows = [[cell.strip() for cell in row] for row in csv.reader(content.splitlines()) if any(row)]
    if any(len(row) != 2 for row in rows):
        raise ValueError("a line has not two cells")
    if rows and rows[0][1].lower() == "weight":
        rows = rows[1:]
    if len({row[0] for row in rows}) < len(rows):
        raise ValueError("a name occurs twice")
    return [(row[0], row[1]) for row in rows]

"""Paired comparison of two checkpoints on the same images."""

# Dimensions: N images.

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_ignite.checkpoint.format import load_checkpoint
from fer_ignite.checkpoint.paths import ensemble_members
from fer_ignite.data.images import require_path
from fer_ignite.errors import ConfigError
from fer_ignite.inference.evaluate import evaluate
from fer_ignite.inference.loaded_model import required_user_code
from fer_ignite.metrics.intervals import mcnemar, paired_interval

__all__ = ["compare", "correct_predictions", "paired_difference", "same_images"]


def compare(
    first: str | Path,
    second: str | Path,
    *,
    data: str | None = None,
    model: str | None = None,
    collate_fn: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Scores two checkpoints on the same images.

    Args:
        data: of both; None means the first one's.
        model, collate_fn: the user's ``module:name`` again, for the runs that had one.
        options: ``split``, ``layout``, ``classes``, ``bad_images``, ``unknown_classes``, ``restrict_classes``, ``tta``,
            ``device``, ``cache`` and ``quiet``, as :func:`fer_ignite.evaluate` takes them.
    Returns:
        ``n, split, data``, what :func:`paired_difference` returns, and ``a``, ``b``: the two evaluations.
    Raises:
        FerError: or its kinds; a ConfigError where the two were not scored on the same images.
    """
    require_path("compare", first)
    require_path("compare", second)
    # Both are read before the first is scored, so that an unusable file is reported at once.
    configs = [
        load_checkpoint(ensemble_members(path)[0].path)["config"] for path in (first, second)
    ]
    shared = data or str(configs[0]["data"])
    # None for the first: evaluate then checks that its data is what it was trained on.
    a, b = (
        evaluate(
            checkpoint,
            data=source,
            model=model,
            collate_fn=required_user_code(config, "collate_fn", given=collate_fn),
            with_faces=True,
            **options,
        )
        for checkpoint, config, source in zip((first, second), configs, (data, shared), strict=True)
    )
    if not same_images(a, b):
        raise ConfigError(
            f"{first} and {second} read {shared} differently (other splits, folds, labels, classes or sizes), so their faces "
            "can't be paired; compare checkpoints of runs with the same data settings."
        )
    difference = paired_difference(
        correct_predictions(a.pop("faces")), correct_predictions(b.pop("faces"))
    )
    return {"n": a["n"], "split": a["split"], "data": a["data"], **difference, "a": a, "b": b}


def same_images(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two evaluations scored the same images under the same labels."""
    # The folds of one data set have one fingerprint and differ in the images alone.
    return all(a[name] == b[name] for name in ("fingerprint", "faces_sha256"))


def paired_difference(hits_a_N: NDArray[np.bool_], hits_b_N: NDArray[np.bool_]) -> dict[str, Any]:
    """Two networks on the same images; bool [N] each.

    Returns:
        ``difference`` of accuracies, a's minus b's, ``difference_interval`` (95 %, paired bootstrap), ``only_a, only_b`` (images
        that only one recognises), ``p`` (McNemar, exact).
    """
    return {
        "difference": float(hits_a_N.mean() - hits_b_N.mean()),
        "difference_interval": paired_interval(hits_a_N, hits_b_N),
        "only_a": int((hits_a_N & ~hits_b_N).sum()),
        "only_b": int((~hits_a_N & hits_b_N).sum()),
        "p": mcnemar(hits_a_N, hits_b_N),
    }


def correct_predictions(outputs: Mapping[str, Any]) -> NDArray[np.bool_]:
    """bool [N]: which images were recognised, out of the entry ``faces`` of ``evaluate(..., with_faces=True)``."""
    predicted_N = np.array(outputs["logits"]).argmax(axis=1)
    hits_N: NDArray[np.bool_] = predicted_N == np.array(outputs["labels"])
    return hits_N

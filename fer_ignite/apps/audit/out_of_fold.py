"""Out-of-fold probabilities: K small networks, each trained on all folds of train but one."""

# Dimensions: N images, K expressions, B images of a batch.

import tempfile
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from fer_ignite.checkpoint.run_dir import RunDir
from fer_ignite.config import Config, check
from fer_ignite.data.classes import match_classes, require_known_classes
from fer_ignite.data.dataset import FaceDataset
from fer_ignite.data.fetchers import in_channels
from fer_ignite.inference.loaded_model import LoadedModel
from fer_ignite.training.build import build_session_objects

__all__ = ["NO_FOLD", "out_of_fold", "out_of_fold_probabilities"]

NO_FOLD = -1  # no network learns from these images: val, test

# The default network with a stem that halves the side at once: three times faster, a few points less accurate.
QUICK = {
    "model": "fer48",
    "model_args": {"stem": "pool"},
    "tensorboard": False,
    "plots": False,
    "quiet": True,
}
_WATCHED = 256  # faces that each epoch ends with; nothing is chosen on them
_BATCH = 512
_LARGEST_PX = 48  # larger faces are made smaller for the small networks


def out_of_fold(
    dataset: FaceDataset,
    fold_N: NDArray[np.int64],
    *,
    learned_N: NDArray[np.bool_],
    epochs: int,
    seed: int,
    device: torch.device,
    tta: str,
    done: Callable[[int], object] = lambda count: None,
) -> NDArray[np.float32]:
    """Probabilities of every image by a network that was trained on all folds but the image's.

    An image without a fold is judged by all networks, and gets their mean.

    Args:
        fold_N: int64 in 0.., as :func:`fer_ignite.data.folds.deal` gives it, or ``NO_FOLD``.
        learned_N: bool; images of other folds that a network learns from. Those with copies among the images without a
            fold should not be among them.
        epochs: of each network; its last weights are taken, so that nothing is chosen on what it judges.
        done: called with after each fold how many images it judged.
    Returns:
        float32 [N, K] in the order of the data's classes.
    """
    # One save, at the end: the run's folder is temporary.
    config = check(
        {**QUICK, "epochs": epochs, "save_epochs": epochs, "seed": seed, **_size(dataset.side_px)}
    )
    probabilities_NK = np.zeros((len(fold_N), len(dataset.classes)), dtype=np.float32)
    folds, others = int(fold_N.max()) + 1, np.flatnonzero(fold_N == NO_FOLD)
    for fold in range(folds):
        held = np.flatnonzero(fold_N == fold)
        network = _train_without(
            dataset,
            np.flatnonzero(learned_N & (fold_N != fold) & (fold_N != NO_FOLD)),
            held=held,
            config=config,
            device=device,
        )
        probabilities_NK[held] = out_of_fold_probabilities(network, dataset, indices=held, tta=tta)
        probabilities_NK[others] += (
            out_of_fold_probabilities(network, dataset, indices=others, tta=tta) / folds
        )
        done(len(held))
    done(len(others))
    return probabilities_NK


def _size(side_px: int) -> dict[str, int]:
    return {"image_size": _LARGEST_PX} if side_px > _LARGEST_PX else {}


def _train_without(
    dataset: FaceDataset,
    kept: NDArray[np.int64],
    *,
    held: NDArray[np.int64],
    config: Config,
    device: torch.device,
) -> LoadedModel:
    part = replace(
        dataset, indices={"train": kept, "val": held[:_WATCHED], "test": held[:0]}, leaks=None
    )
    with tempfile.TemporaryDirectory(prefix="fer-ignite-audit-") as name:
        folder = RunDir(name)
        folder.create()
        session = build_session_objects(config, part, folder=folder, device=device)
        session.run()
    return LoadedModel(
        # The last weights, not best.pt's, which would be chosen on the fold that they judge.
        session.evaluated.eval(),
        dataset.classes,
        session.preprocessing,
        config,
        {},
        device,
        session.precision,
    )


def out_of_fold_probabilities(
    network: LoadedModel, dataset: FaceDataset, *, indices: NDArray[np.int64], tta: str
) -> NDArray[np.float32]:
    """float32 [len(indices), K]: a network's probabilities, in the order of the data's classes.

    Raises:
        DataError: network and data don't know the same classes.
    """
    match = match_classes(dataset.classes, network.classes)
    require_known_classes(
        match, remedy="audit this data with a network of its own (leave --checkpoint out)"
    )
    assert dataset.cache is not None
    parts = [
        network.probabilities(
            in_channels(
                torch.from_numpy(dataset.cache.read(indices[at : at + _BATCH])),
                network.preprocessing.channels,
            ),
            tta=tta,
        ).numpy()
        for at in range(0, len(indices), _BATCH)
    ]
    probabilities_NK: NDArray[np.float32] = (
        np.concatenate(parts) if parts else np.zeros((0, len(network.classes)), np.float32)
    )
    known_NK = probabilities_NK[:, match.places_K]
    if sorted(match.places_K.tolist()) != list(range(len(network.classes))):
        known_NK /= known_NK.sum(axis=1, keepdims=True)  # of the classes that the data has
    return known_NK

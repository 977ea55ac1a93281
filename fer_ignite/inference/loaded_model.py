"""A loaded checkpoint: network, classes, preprocessing and temperature."""

# Dimensions: B images of a batch, K expressions, C channels, H W pixels.

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fer_ignite.checkpoint.format import load_checkpoint
from fer_ignite.checkpoint.paths import ensemble_members, resolve_checkpoint, weighted_name
from fer_ignite.checkpoint.run_dir import RunDir
from fer_ignite.config import Config, check
from fer_ignite.data.images import require_faces, require_path
from fer_ignite.data.loader import Preprocessing
from fer_ignite.distributed import LaunchSpec
from fer_ignite.distributed.machine import detect_machine
from fer_ignite.distributed.resolve import make_plan
from fer_ignite.errors import (
    NONFINITE_OUTPUTS,
    CheckpointError,
    ConfigError,
    NonFiniteError,
    one_line,
)
from fer_ignite.imports import is_object_name, local_objects, which_again
from fer_ignite.inference.ensemble import combine
from fer_ignite.inference.onnx import OnnxModel, is_onnx
from fer_ignite.metrics.temperature_bounds import usable_temperature
from fer_ignite.stores.store import is_url
from fer_ignite.training.components import build_model_from_config
from fer_ignite.training.objects import model_name, own_copy
from fer_ignite.training.precision import resolve_precision
from fer_ignite.training.trainer import tta_logits
from fer_ignite.weights import shipped_checkpoint

if TYPE_CHECKING:
    from fer_ignite.inference.predictor import Prediction

__all__ = [
    "LoadedModel",
    "find_run_dir",
    "load_model",
    "predict_probabilities",
    "required_user_code",
]

logger = logging.getLogger("fer_ignite")


@dataclass(repr=False)
class LoadedModel:
    """A checkpoint, ready to use.

    Attributes:
        model: in evaluation mode, on ``device``; the averaged weights where the run kept an average.
        config: the run's settings, with what was changed for this use.
        members: of an ensemble; ``config`` and ``checkpoint`` are the first one's then.
    """

    model: nn.Module
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    config: Config
    checkpoint: Mapping[str, Any]
    device: torch.device
    precision: str
    members: "Sequence[LoadedModel]" = ()

    def __repr__(self) -> str:
        preprocessing = self.preprocessing
        colour = "gray" if preprocessing.channels == 1 else "RGB"
        calibrated = f"temperature {self.temperature:.2f}" if self.calibrated else "not calibrated"
        name = f"ensemble of {len(self.members)} networks" if self.members else self.config.model
        return (
            f"LoadedModel {name}: {', '.join(self.classes)}; {preprocessing.image_px} px {colour} faces, "
            f"{calibrated}, {self.device}, {self.precision}"
        )

    @property
    def networks(self) -> "Sequence[LoadedModel]":
        """The members of an ensemble, else the network itself."""
        return self.members or (self,)

    @property
    def temperature(self) -> float:
        """Fitted on val at the end of the run; 1 where the checkpoint has none that can be used."""
        return float(self.checkpoint["temperature"]) if self.calibrated else 1.0

    @property
    def calibrated(self) -> bool:
        """Whether the checkpoint has a temperature within the bounds of :data:`fer_ignite.metrics.temperature_bounds.TEMPERATURES`."""
        return usable_temperature(self.checkpoint.get("temperature"))

    @property
    def finished_tensors(self) -> bool:
        """Whether it was trained on float tensors that its data set had finished, or a member of the ensemble was."""
        return any(part.preprocessing.finished_tensors for part in self.networks)

    def require_images(self) -> None:
        """Refuses a network that can't be given pictures.

        Raises:
            CheckpointError: it was trained on finished tensors, and how they were made is not known.
        """
        if self.finished_tensors:
            raise CheckpointError(
                "the network was trained on float tensors that its data set made (as ToTensor and Normalize do), and no "
                "checkpoint says how, so it can't be given pictures: score it with evaluate(..., data=...), call "
                "load_model(...).model with tensors made the same way, or train it on PIL images or uint8 pixels."
            )

    def predict(
        self, images: Any, *, faces: str = "auto", tta: str | None = None, batch_size: int = 256
    ) -> "list[Prediction]":
        """Names the expressions of one picture or of several.

        Args:
            images: a path, a PIL image, a uint8 array [H, W] or [H, W, 3] (RGB), a uint8 tensor [H, W] or [C, H, W], or several
                of these.
            faces: "auto" finds the faces of whole photographs and takes face crops as they are; "never"; "always".
            tta: views to average; None = the run's.
        Returns:
            One :class:`fer_ignite.inference.predictor.Prediction` per face, with ``label``, ``probabilities`` of all expressions
            and ``box``; a file that can't be read has an ``error``.
        Raises:
            ConfigError, DataError: what is no picture; one sentence says what is.
            CheckpointError: see :meth:`require_images`.
        """
        from fer_ignite.inference.predictor import predict

        count = len(self.classes)
        return list(predict(self, images, topk=count, faces=faces, tta=tta, batch_size=batch_size))

    def probabilities(self, images_BHWC: Tensor, *, tta: str = "none") -> Tensor:
        """float32 [B, K] on the CPU, out of uint8 faces in the channels and any size of the training's.

        Raises:
            DataError: another type, dtype, shape or number of channels.
            ConfigError: an unknown ``tta``.
            NonFiniteError: the network's outputs are not finite.
            CheckpointError: see :meth:`require_images`.
        """
        self.require_images()
        require_faces(images_BHWC, channels=self.preprocessing.channels, kind="tensor")
        images_BCHW = self.preprocessing.plain(
            images_BHWC.to(self.device), channels_last=self.config.channels_last
        )
        with torch.inference_mode():
            scores_BK = tta_logits(
                self.model, images_BCHW, device=self.device, precision=self.precision, tta=tta
            )
            # On the CPU: MPS has no float64.
            probabilities_BK = predict_probabilities(scores_BK.cpu(), self.temperature)
        if not probabilities_BK.isfinite().all():
            raise NonFiniteError(NONFINITE_OUTPUTS)
        return probabilities_BK


def predict_probabilities(logits_BK: Tensor, temperature: float) -> Tensor:
    """float32 softmax of logits / temperature, with the largest probability where the largest logit is.

    Rounding to float32 can make two probabilities equal; the label would then be the first of them.
    """
    # float64 keeps the logits' order up to the rounding at the end, which leaves only ties.
    probabilities_BK = (logits_BK.double() / temperature).softmax(dim=1).float()
    top_B1 = logits_BK.argmax(dim=1, keepdim=True)
    most_B1 = probabilities_BK.amax(dim=1, keepdim=True)
    tied_B1 = probabilities_BK.argmax(dim=1, keepdim=True) != top_B1
    return probabilities_BK.scatter(
        1, top_B1, torch.where(tied_B1, most_B1.nextafter(torch.ones_like(most_B1)), most_B1)
    )


@local_objects()
def load_model(
    path: str | Path | Sequence[str | Path] | None = None,
    *,
    weights: Sequence[float] | None = None,
    device: str | torch.device = "auto",
    model: Any = None,
    precision: str | None = None,
    collated: bool = False,
) -> Any:
    """A network out of a checkpoint, wherever the file was copied to.

    Args:
        path: a checkpoint, a run's folder, or an ``.onnx`` file that was exported from one (see :class:`OnnxModel`); None: the
            network that comes with the package. Several checkpoints, as a list or comma separated in a text, are an ensemble:
            one network whose probabilities are the mean of theirs.
        weights: of an ensemble's checkpoints in that mean; None: equal, or as the text has them (``A=0.6,B=0.4``).
        model: the user's ``module:Class`` again, or the object, where the run used one; checkpoints never import code. Of a
            module a copy is used. Without effect on a checkpoint of a built-in network.
        precision: another than the run's; bf16 becomes fp32 where this device is slow at it.
        collated: the caller makes batches by the run's own function; otherwise there is a warning where it had one.
    Raises:
        CheckpointError: see :func:`load_checkpoint`; or it needs the user's class and was not given it.
    """
    if path is None:
        path = shipped_checkpoint()
    path = weighted_name(path, weights)
    require_path("load_model", path)
    members = ensemble_members(path)
    if len(members) > 1:
        if any(is_onnx(member.path) for member in members):
            raise ConfigError(
                f"{path}: an ensemble is made of checkpoints; export it as a whole with `fer-ignite export A,B,C`."
            )
        loaded = [
            load_model(
                member.path, device=device, model=model, precision=precision, collated=collated
            )
            for member in members
        ]
        return combine(loaded, [member.weight for member in members])
    if is_url(path):
        # A local copy first: onnxruntime opens no URL, and a run named by URL has no suffix.
        path = resolve_checkpoint(path)
    if is_onnx(path):
        if model is not None or precision is not None:
            raise ConfigError(
                "model and precision are fixed inside an .onnx file; give them to `fer-ignite export` instead."
            )
        # A text: device may be a torch.device, and OnnxModel works without torch.
        return OnnxModel(path, device=str(device))
    checkpoint = load_checkpoint(path)
    config = _config_for_use(path, checkpoint, model=model_name(model), collated=collated)
    place = _resolve_device(device)
    fields = checkpoint["preprocessing"]
    preprocessing = Preprocessing(
        **{**fields, "mean": tuple(fields["mean"]), "std": tuple(fields["std"])}
    )
    network = _with_weights(path, checkpoint, config=config, preprocessing=preprocessing)
    network = network.to(place).eval()
    if config.channels_last:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    # A checkpoint may come from a device with native bfloat16; "auto" is bfloat16 only where this one has it.
    wanted = precision or ("auto" if config.precision == "bf16" else config.precision)
    return LoadedModel(
        network,
        tuple(checkpoint["classes"]),
        preprocessing,
        config,
        checkpoint,
        place,
        resolve_precision(wanted, place),
    )


def _config_for_use(
    path: str | Path, checkpoint: Mapping[str, Any], *, model: str | None, collated: bool
) -> Config:
    """The run's configuration without what only training needs."""
    # Checkpoints of older versions may hold settings that are gone.
    known = {
        name: value
        for name, value in checkpoint["config"].items()
        if name in Config.model_fields and name not in ("handlers", "init_from", "resume")
    }
    if known.get("collate_fn") and not collated:
        logger.warning(
            "%s: its run made batches by %s, which has no part in this; if it prepared faces in its own way, answers will be wrong.",
            path,
            known["collate_fn"],
        )
    # A built-in network is built by its name: one class may be given for several checkpoints.
    if given := required_user_code(known, "model", given=model):
        known["model"] = given
    # The checkpoint has all weights: published ones would be downloaded for nothing.
    config = check({**known, "pretrained": False})
    if is_object_name(config.model) and given is None:
        raise CheckpointError(
            f"{path} was trained with the user's network {config.model}; checkpoints never import user code: "
            f"{which_again('model', config.model)}"
        )
    return config


def _resolve_device(device: str | torch.device) -> torch.device:
    if isinstance(device, torch.device):
        return device
    spec = LaunchSpec(device=device)  # type: ignore[arg-type]
    return torch.device(make_plan(spec, {}, machine=detect_machine()).device)


def _with_weights(
    path: str | Path, checkpoint: Mapping[str, Any], *, config: Config, preprocessing: Preprocessing
) -> nn.Module:
    model = build_model_from_config(
        config, num_classes=len(checkpoint["classes"]), preprocessing=preprocessing
    )
    # Of a module that the caller has given: loading would overwrite the caller's weights.
    model = own_copy(model, config.model)
    try:
        # The average where there is one: the run validated it and chose its best epoch by it.
        model.load_state_dict(checkpoint.get("ema") or checkpoint["model"])
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: the weights don't fit the network {config.model}: {one_line(error)}."
        ) from None
    return model


def required_user_code(saved: Mapping[str, Any], setting: str, *, given: str | None) -> str | None:
    """The user's ``module:name`` for a run that had one, None for the others: several runs may get one name.

    Args:
        saved: a checkpoint's configuration.
        setting: ``model`` or ``collate_fn``.
    """
    return given if is_object_name(str(saved.get(setting) or "")) else None


def find_run_dir(path: str | Path) -> RunDir | None:
    """The run that a checkpoint lies in, or whose folder it is; None for one that was copied out of it, and for an ensemble."""
    if len(ensemble_members(path)) > 1:
        return None
    folder = resolve_checkpoint(path).resolve().parent
    if folder.name == "checkpoints" and (folder.parent / "config.yaml").exists():
        return RunDir(folder.parent)
    return None

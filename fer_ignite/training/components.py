"""Builds preprocessing, sampler, network, loss, optimizer and schedule from a configuration."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import ignite.distributed as idist
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from fer_ignite.checkpoint.format import load_weights_file
from fer_ignite.config import Config, field_facts, parse_image_sizes
from fer_ignite.data.augment.pipeline import AugmentSpec
from fer_ignite.data.classes import match_classes
from fer_ignite.data.dataset import FaceDataset
from fer_ignite.data.image_size_schedule import ImageSizeSchedule
from fer_ignite.data.loader import Preprocessing
from fer_ignite.data.open import shard_order
from fer_ignite.data.readers.find import split_sources
from fer_ignite.data.readers.union import set_numbers
from fer_ignite.data.sampler import EpochSampler
from fer_ignite.errors import CheckpointError, ConfigError, DataError, one_line
from fer_ignite.imports import load_object
from fer_ignite.models.evaluation_mode import evaluation_mode
from fer_ignite.models.heads import head_prefixes
from fer_ignite.models.initial_weights import initialise_from
from fer_ignite.models.registry import build_model
from fer_ignite.models.spec import IMAGENET
from fer_ignite.models.timm_models import PREFIX, published_statistics
from fer_ignite.training.class_weights import class_weights, logit_adjustment
from fer_ignite.training.losses import Loss, build_loss
from fer_ignite.training.lr_schedule import Schedule, build_schedule
from fer_ignite.training.optim import OPTIMIZER_SETTINGS, build_optimizer, parameter_groups

__all__ = [
    "build_augment_spec",
    "build_image_size_schedule",
    "build_loss_from_config",
    "build_loss_weights",
    "build_model_from_config",
    "build_network",
    "build_optimizer_from_config",
    "build_preprocessing",
    "build_sampler",
    "build_schedule_from_config",
    "choose_train_indices",
    "hparam_types",
    "loss_terms",
    "min_lr_factor",
    "nominal_lr",
]

logger = logging.getLogger("fer_ignite")

DEV_BATCHES = 3


def build_preprocessing(config: Config, dataset: FaceDataset) -> Preprocessing:
    """From stored faces to the network's input.

    Raises:
        ConfigError: another side is set than that of finished tensors, which nothing resizes.
    """
    image_px = config.image_size or dataset.side_px or 48
    for setting, value, fits in (
        ("--image-size", config.image_size, image_px == dataset.side_px),
        ("--image-size-schedule", config.image_size_schedule, False),
    ):
        if dataset.finished and value is not None and not fits:
            raise ConfigError(
                f"{setting} {value}: {dataset.source} gives finished tensors of {dataset.side_px} px, which are not resized; leave "
                "it out, or let the data set give images."
            )
    mean, std = (dataset.mean, dataset.std) if config.normalize == "train" else IMAGENET
    if config.normalize == "model" and config.model.startswith(PREFIX):
        mean, std = published_statistics(config.model)
    # ImageNet's statistics for gray images: the mean over RGB.
    if dataset.channels == 1 and len(mean) == 3:
        mean, std = (sum(mean) / 3,), (sum(std) / 3,)
    return Preprocessing(
        image_px,
        config.resize or image_px,
        dataset.channels,
        mean,
        std,
        dataset.side_px,
        dataset.resize_mode,
        finished_tensors=dataset.finished,
    )


def build_augment_spec(config: Config) -> AugmentSpec | None:
    """How the train split is augmented; None for not at all."""
    if not config.augment:
        return None
    return AugmentSpec(
        hflip=config.hflip,
        vflip=config.vflip,
        rotate_deg=config.rotate,
        scale=config.scale,
        translate=config.translate,
        shear_deg=config.shear,
        brightness=config.brightness,
        contrast=config.contrast,
        reprob=config.reprob,
        blur=config.blur,
        noise=config.noise,
        mixup=config.mixup,
        cutmix=config.cutmix,
        padding=config.padding,
    )


def build_loss_weights(
    config: Config, dataset: FaceDataset, *, sampler: EpochSampler
) -> NDArray[np.float32] | None:
    """float32 [N]: each face's weight in the loss by its data set, with a mean of 1 over train; None where all are equal.

    Raises:
        ConfigError: another number of weights than of data sets.
    """
    if not config.data_weights:
        return None
    sources = split_sources(config.data)
    if len(sources) != len(config.data_weights) or dataset.cache is None:
        raise ConfigError(
            f"--data-weights has {len(config.data_weights)} numbers, and --data {len(sources)} data sets; give one for each."
        )
    if len(sources) == 1:
        return None
    numbers_N = set_numbers([dataset.cache.id_bytes(place) for place in range(len(dataset.cache))])
    weights_N = np.array(config.data_weights, dtype=np.float32)[numbers_N - 1]
    # Over the faces that are trained on, without those that are left out: the loss keeps its size.
    scaled_N: NDArray[np.float32] = weights_N / weights_N[sampler.indices_N].mean()
    return scaled_N


def build_image_size_schedule(
    config: Config, preprocessing: Preprocessing, *, model: nn.Module, device: torch.device
) -> ImageSizeSchedule | None:
    """The side of the train images over the run; None where it is always the network's.

    Raises:
        ConfigError: it ends at another side than the network's, or the network does not take all sides.
    """
    if config.image_size_schedule is None:
        return None
    steps = parse_image_sizes(config.image_size_schedule)
    if steps[-1][0] != preprocessing.image_px:
        raise ConfigError(
            f"--image-size-schedule ends at {steps[-1][0]} px, and the network takes {preprocessing.image_px} px; let it end "
            f"there, or set --image-size {steps[-1][0]}."
        )
    # Before the run: a side that the network refuses would otherwise end it in the middle, when
    # that side is due.
    for side, _ in steps:
        _require_side(model, (1, preprocessing.channels, side, side), device=device)
    return ImageSizeSchedule(steps, config.epochs)


def _require_side(
    model: nn.Module, shape_BCHW: tuple[int, int, int, int], *, device: torch.device
) -> None:
    try:
        with evaluation_mode(model), torch.no_grad():
            model(torch.zeros(shape_BCHW, device=device))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ConfigError(
            f"--image-size-schedule: the network does not take images of {shape_BCHW[-1]} px ({one_line(error)}); leave that side out."
        ) from None


def choose_train_indices(config: Config, dataset: FaceDataset) -> NDArray[np.int64]:
    """Places of the faces that a run is trained on: the train split without what its settings leave out."""
    indices = dataset.train_indices(
        drop_train_duplicates=config.drop_train_duplicates,
        limit=config.max_train_samples,
        seed=config.seed,
    )
    return indices[: DEV_BATCHES * config.batch_size] if config.fast_dev_run else indices


def build_sampler(config: Config, dataset: FaceDataset) -> EpochSampler:
    """The order of the train split."""
    indices = choose_train_indices(config, dataset)
    return EpochSampler(
        indices,
        dataset.targets.labels_N[indices],
        config.seed,
        config.batch_size,
        config.grad_accum_steps,
        config.drop_last,
        config.sampler,
        shard_order(config, dataset.cache, indices),
    )


def min_lr_factor(config: Config, *, lr: float) -> float:
    """``min_lr`` as a factor: schedules are factors of each group's own rate, so their floor is one as well.

    Args:
        lr: the rate that falls to ``min_lr``; see :func:`nominal_lr`.
    """
    return config.min_lr / lr if config.min_lr < lr else 1.0


def nominal_lr(config: Config, optimizer: Optimizer) -> float:
    """The run's learning rate: ``--lr``, or the highest rate of the user's own optimizer."""
    if config.optimizer_factory is None:
        return config.lr
    return max(float(group["lr"]) for group in optimizer.param_groups)


def build_schedule_from_config(
    config: Config, *, steps_per_epoch: int, lr: float | None = None
) -> Schedule:
    """Factor of the learning rate at each optimizer step.

    Args:
        lr: see :func:`nominal_lr`; None: the configuration's.
    """
    return build_schedule(
        config.sched,
        steps_per_epoch=steps_per_epoch,
        epochs=config.epochs,
        warmup_steps=round(config.warmup_epochs * steps_per_epoch),
        warmup_start_factor=config.warmup_start,
        min_factor=min_lr_factor(config, lr=config.lr if lr is None else lr),
        decay_epochs=config.decay_epochs,
        decay_rate=config.decay_rate,
        milestones=config.milestones,
        pct_start=config.pct_start,
        div_factor=config.div_factor,
        final_div_factor=config.final_div_factor,
    )


def build_model_from_config(
    config: Config, *, num_classes: int, preprocessing: Preprocessing
) -> nn.Module:
    """The configured network for images of a preprocessing, on the CPU, in training mode."""
    return build_model(
        config.model,
        num_classes=num_classes,
        in_channels=preprocessing.channels,
        image_px=preprocessing.image_px,
        pretrained=config.pretrained,
        dropout=config.dropout,
        norm=config.norm,
        model_args=config.model_args,
    )


def build_network(
    config: Config, dataset: FaceDataset, *, preprocessing: Preprocessing, device: torch.device
) -> nn.Module:
    """The network on its device, with start weights where they were requested."""
    model = build_model_from_config(
        config, num_classes=len(dataset.classes), preprocessing=preprocessing
    )
    if config.init_from is not None:
        try:
            content = _classes_reordered(
                load_weights_file(config.init_from),
                model,
                classes=dataset.classes,
                path=config.init_from,
            )
            report = initialise_from(model, content, strict=config.strict)
        except CheckpointError as error:
            raise CheckpointError(f"--init-from: {error}") from None
        # with --no-strict, what was left out is a warning: once for all ranks
        if report.complete or idist.get_rank() == 0:
            level = logging.INFO if report.complete else logging.WARNING
            logger.log(level, "weights of %s\n%s", config.init_from, report.describe())
    model = model.to(device)
    return model.to(memory_format=torch.channels_last) if config.channels_last else model  # type: ignore[call-overload]


def _classes_reordered(
    content: dict[str, Any], model: nn.Module, *, classes: Sequence[str], path: str
) -> dict[str, Any]:
    """A checkpoint's mapping with the rows of its classifier in the order of the data's classes.

    Only where the file is one of ours and its classes are the data's in other words or another order; otherwise the content
    is returned as it is, and a classifier of another size is reported by :func:`initialise_from`.
    """
    known = content.get("classes")
    if not isinstance(known, (list, tuple)) or list(known) == list(classes):
        return content
    try:
        match = match_classes(classes, [str(name) for name in known])
    except DataError as error:
        raise CheckpointError(str(error)) from None
    if match.unknown or len(known) != len(classes) or match.absent:
        return content
    order_K = torch.from_numpy(match.places_K)
    if idist.get_rank() == 0:
        logger.info("classes of %s: %s", path, match.renamed or "the same in another order")

    def reordered(state: Mapping[str, Any]) -> dict[str, Any]:
        head = head_prefixes(model)
        # Only what has one row per class: a head of several layers holds other parameters too.
        return {
            name: value[order_K]
            if isinstance(value, Tensor)
            and value.shape[:1] == (len(known),)
            and name.startswith(tuple(f"{prefix}." for prefix in head))
            else value
            for name, value in state.items()
        }

    return {
        **content,
        **{key: reordered(content[key]) for key in ("model", "ema") if content.get(key)},
    }


def build_optimizer_from_config(config: Config, model: nn.Module) -> Optimizer:
    """The optimizer over named parameter groups, with those of the settings that it takes."""
    groups = parameter_groups(
        model,
        lr=config.lr,
        backbone_lr=config.backbone_lr,
        head_lr=config.head_lr,
        weight_decay=config.weight_decay,
        freeze=config.freeze,
    )
    if config.opt == "muon":
        for group in groups:
            # Its authors leave the classifier to AdamW: its rows are classes, not directions of features.
            group["use_muon"] = not group["name"].startswith("head")
    if config.optimizer_factory is not None:
        return _user_optimizer(config.optimizer_factory, groups)
    settings: dict[str, Any] = {
        name: config.opt_eps if name == "eps" else getattr(config, name)
        for name in OPTIMIZER_SETTINGS[config.opt]
    }
    return build_optimizer(
        config.opt, groups, lr=config.lr, weight_decay=config.weight_decay, **settings
    )


def _user_optimizer(name: str, groups: list[dict[str, Any]]) -> Optimizer:
    """The user's optimizer over our groups, with the learning rate and the weight decay of its own.

    Raises:
        ConfigError: the factory makes something else.
    """
    factory = load_object(name, setting="--optimizer-factory")
    # The user's factory brings its own rates; only "no decay" for norms and biases is kept.
    own = [
        {
            key: value
            for key, value in group.items()
            if key != "lr" and (key != "weight_decay" or group["name"].endswith("_no_decay"))
        }
        for group in groups
    ]
    made = factory(own)
    if not isinstance(made, Optimizer):
        raise ConfigError(
            f"--optimizer-factory: {name} made a {type(made).__name__}; it must make a torch.optim.Optimizer out of the "
            "parameter groups that it is given."
        )
    return made


def build_loss_from_config(config: Config, dataset: FaceDataset, *, sampler: EpochSampler) -> Loss:
    """What is minimised, with class weights and shares counted on the faces that are trained on."""
    counts = dataset.counts(sampler.indices_N).tolist()
    return build_loss(
        config.loss,
        smoothing=config.smoothing,
        focal_gamma=config.focal_gamma,
        weights_K=class_weights(config.class_weights, counts, classes=dataset.classes),
        adjustment_K=logit_adjustment(config.logit_adjustment, counts),
    )


def loss_terms(loss: Loss) -> Callable[[Tensor, Tensor], Mapping[str, Tensor]]:
    """(logits_BK, targets_BK) -> {"loss": losses_B, and the terms where there are several}."""

    def terms(logits_BK: Tensor, targets_BK: Tensor) -> Mapping[str, Tensor]:
        parts = loss.terms(logits_BK, targets_BK)
        total_B = loss.total(parts)
        return {"loss": total_B} if len(parts) == 1 else {"loss": total_B, **parts}

    return terms


def hparam_types() -> dict[str, str]:
    """TensorBoard's types of the settings that can change the result."""
    types = {}
    for name, field in Config.model_fields.items():
        if field_facts(name)["group"] not in ("Output", "Launch"):
            kinds = set(get_args(field.annotation) or (field.annotation,)) - {type(None)}
            number = "FLOAT64" if kinds and kinds <= {int, float} else "STRING"
            types[name] = "BOOL" if kinds == {bool} else number
    return types

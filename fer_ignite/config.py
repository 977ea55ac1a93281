"""Configuration: each setting declared once, as YAML key, flag, help text and validation.

``Config`` is frozen and read only where a run is wired. Defaults are those of the ``quick`` recipe. A field's
``structural`` mark says that a resumed run with another value would be another run.
"""

import difflib
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from fer_ignite.errors import ConfigError

__all__ = [
    "GROUPS",
    "OF_ONE_OPTIMIZER",
    "OPTIMIZER_DEFAULTS",
    "READING_SETTINGS",
    "Config",
    "changed_settings",
    "check",
    "default_settings",
    "field_facts",
    "json_schema",
    "merged",
    "nearest_setting",
    "parse_duration",
    "parse_image_sizes",
    "parse_yaml",
    "read_yaml",
]

# Defaults that depend on the optimizer, by its name; a field's own default is that of adamw. The pairs of adamw and sgd
# come from measured runs (docs/accuracy.md); the others are common in the literature, the rates of adagrad and adadelta torch's.
OPTIMIZER_DEFAULTS: Mapping[str, Mapping[str, float]] = {
    "adamw": {"lr": 0.003, "weight_decay": 0.1},
    "adam": {"lr": 0.003, "weight_decay": 0.0005},
    "muon": {"lr": 0.003, "weight_decay": 0.1, "momentum": 0.95},
    "sgd": {"lr": 0.1, "weight_decay": 0.0005},
    "rmsprop": {"lr": 0.001, "weight_decay": 0.0005},
    "adagrad": {"lr": 0.01, "weight_decay": 0.0005},
    "adadelta": {"lr": 1.0, "weight_decay": 0.0005},
}
# Settings that suit one optimizer only: a layer that names another optimizer replaces them by its own or by the defaults.
OF_ONE_OPTIMIZER = ("lr", "backbone_lr", "head_lr", "weight_decay", "opt_eps")

# How a data set's files are read; commands that read data take them all.
READING_SETTINGS = (
    "layout",
    "peak_frames",
    "neutral_frames",
    "group_by",
    "follow_links",
    "crop_faces",
)

_LARGEST_YAML = 1_000_000  # bytes

GROUPS = (
    "Data",
    "Augmentation",
    "Model",
    "Loss",
    "Optimizer",
    "Schedule",
    "Training",
    "Output",
    "Launch",
)


def parse_duration(value: Any) -> Any:
    """Seconds from ``90``, ``"90s"``, ``"15m"``, ``"1h30m"``; anything else is left for the validation to refuse."""
    if not isinstance(value, str):
        return value
    seconds, number = 0.0, ""
    try:
        for character in value.strip():
            if character.isdecimal() or character == ".":
                number += character
            elif character in "hms" and number:
                seconds += float(number) * {"h": 3600, "m": 60, "s": 1}[character]
                number = ""
            else:
                return value
        return seconds + float(number or 0)
    except ValueError:  # 1.2.3
        return value


def _joined(value: Any) -> Any:
    """Several data sets as one text; one is left as it is."""
    if isinstance(value, (list, tuple)) and all(isinstance(part, str) for part in value):
        return ",".join(value)
    return value


def _split_text(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return tuple(value) if isinstance(value, list) else value


def parse_image_sizes(text: str) -> tuple[tuple[int, float], ...]:
    """``(side in px, share of the run at which it ends)`` out of ``32:0.5,40:0.8,48``; the last share is 1.

    Raises:
        ValueError: another form, shares that do not rise, or sides below 16.
    """
    form = "needs SIDE:SHARE,...,SIDE with rising shares between 0 and 1 and sides from 16 px, e.g. 32:0.5,40:0.8,48"
    steps = []
    entries = text.split(",")
    try:
        for entry in entries[:-1]:
            side, share = entry.split(":")
            steps.append((int(side), float(share)))
        steps.append((int(entries[-1]), 1.0))
    except ValueError:
        raise ValueError(form) from None
    shares = [0.0, *(share for _, share in steps)]
    if not all(a < b for a, b in itertools.pairwise(shares)) or min(steps)[0] < 16:
        raise ValueError(form)
    return tuple(steps)


def parse_yaml(text: str) -> Any:
    """The plain values in YAML text.

    Raises:
        ValueError: it is not YAML, holds an impossible date, or is nested too deeply; with the parser's reason.
    """
    try:
        # An impossible date (2024-02-31) raises a plain ValueError, which passes as it is.
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _read_mapping(value: Any) -> Any:
    try:
        return parse_yaml(value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError("needs to be a mapping in YAML, e.g. '{widths: [32, 64]}'") from None


Names = Annotated[tuple[str, ...], BeforeValidator(_split_text)]
Integers = Annotated[tuple[int, ...], BeforeValidator(_split_text)]
Floats = Annotated[tuple[float, ...], BeforeValidator(_split_text)]
Seconds = Annotated[float, BeforeValidator(parse_duration)]


def _setting(
    default: Any,
    text: str,
    *,
    group: str,
    unit: str = "",
    structural: bool = False,
    repeat: bool = False,
    **bounds: Any,
) -> Any:
    extra: dict[str, Any] = {
        "group": group,
        "unit": unit,
        "structural": structural,
        "repeat": repeat,
    }
    return Field(default, description=text, json_schema_extra=extra, **bounds)


class Config(BaseModel):
    """The whole configuration of a run; keyword-only, frozen, every value checked.

    Raises:
        ConfigError: through :func:`check`, one sentence for the first wrong value. (pydantic's ``ValidationError``
            when the class is called directly.)
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        allow_inf_nan=False,
        protected_namespaces=(),  # pydantic before 2.10 keeps model_ for itself; model_args is ours
    )

    # --- Data
    data: Annotated[str, BeforeValidator(_joined)] = _setting(
        "demo",
        "Class folders, fer2013.csv (also gzipped), a manifest csv, a dataset cache, a URL of these (s3://...), kaggle:OWNER/NAME, shards:URL, "
        "module:Dataset, demo or demo:N; repeated (or comma separated): the union.",
        group="Data",
        structural=True,
        repeat=True,
        min_length=1,
    )
    data_weights: Floats = _setting(
        (),
        "Weight of each data set's faces in the loss, for several --data, e.g. 1,0.5; scaled to a mean of 1. [default: equal]",
        group="Data",
        structural=True,
    )
    layout: Literal[
        "auto", "folders", "csv", "fer2013", "rafdb", "affectnet", "ckplus", "jaffe", "kdef", "expw"
    ] = _setting(
        "auto",
        "Published data set whose layout or numbering the data has; auto = recognised by its files.",
        group="Data",
        structural=True,
    )
    peak_frames: int = _setting(
        3, "CK+: last frames of each sequence that are taken.", group="Data", structural=True, ge=1
    )
    neutral_frames: bool = _setting(
        False,
        "CK+: take the first frame of each sequence as neutral.",
        group="Data",
        structural=True,
    )
    group_by: str | None = _setting(
        None,
        "Regular expression that finds the person or film in an image's name, e.g. 'S[0-9]+'; a group stays in one split.",
        group="Data",
        structural=True,
        min_length=1,
    )
    follow_links: bool = _setting(
        False,
        "Read symbolic links that lead out of the data's folder.",
        group="Data",
        structural=True,
    )
    crop_faces: bool = _setting(
        False,
        "Photographs: find, align and cut out the largest face of each; what has none is a bad image.",
        group="Data",
        structural=True,
    )
    votes: str | None = _setting(
        None, "FER+ votes file (fer2013new.csv) for a fer2013.csv.", group="Data", structural=True
    )
    vote_mode: Literal["majority", "distribution"] = _setting(
        "majority",
        "What the votes become: one label, or soft labels.",
        group="Data",
        structural=True,
    )
    vote_weight: float | None = _setting(
        None,
        "FER+ votes as a second target of train beside the data's own labels: their share. Classes, val and test stay the data's.",
        group="Data",
        structural=True,
        gt=0,
        le=1,
    )
    classes: str | None = _setting(
        None,
        "Order, rename or merge classes: 'angry,happy,calm=neutral+sad'.",
        group="Data",
        structural=True,
    )
    split: Floats | None = _setting(
        None,
        "Shares of train,val,test for data without them; 0.8,0.1,0.1 where not given.",
        group="Data",
        structural=True,
    )
    val_fraction: float = _setting(
        0.1,
        "Share of train that becomes val where the data has no val.",
        group="Data",
        structural=True,
        gt=0,
        lt=1,
    )
    split_seed: int = _setting(
        0, "Seed of the split, apart from --seed.", group="Data", structural=True, ge=0, lt=2**63
    )
    drop_train_duplicates: bool = _setting(
        False,
        "Leave train images out that also occur in val or test.",
        group="Data",
        structural=True,
    )
    exclude: str | None = _setting(
        None,
        "Leave the train images out that this audit.csv (column id; drop = yes where there is one) lists.",
        group="Data",
        structural=True,
        min_length=1,
    )
    folds: int | None = _setting(
        None,
        "Cross-validation: deal train and val into this many folds, train once for each; test is not touched.",
        group="Data",
        structural=True,
        ge=2,
        le=100,
    )
    fold: int | None = _setting(
        None,
        "Train only the run that is judged by this fold of --folds, counted from 0.",
        group="Data",
        structural=True,
        ge=0,
    )
    bad_images: Literal["error", "skip"] = _setting(
        "error",
        "Unusable images and csv rows: stop with a list of them, or skip them.",
        group="Data",
    )
    cache: str | None = _setting(
        None,
        "Where dataset caches are kept. [default: $FER_IGNITE_CACHE or the user's cache]",
        group="Data",
    )
    channels: Literal["auto", "gray", "rgb"] = _setting(
        "auto", "Colour of the stored faces.", group="Data", structural=True
    )
    image_size: int | None = _setting(
        None,
        "Side of the network's input. [default: the data's own, 48 where it varies]",
        group="Data",
        unit="px",
        structural=True,
        ge=16,
        le=1024,
    )
    resize: int | None = _setting(
        None,
        "Side to which faces are resized before the crop to --image-size. [default: no crop]",
        group="Data",
        unit="px",
        structural=True,
        ge=16,
        le=2048,
    )
    resize_mode: Literal["squash", "letterbox", "crop"] = _setting(
        "squash", "How a face that is not square becomes square.", group="Data", structural=True
    )
    normalize: Literal["train", "imagenet", "model"] = _setting(
        "train",
        "Mean and standard deviation: the train split's, ImageNet's, or those of the network's published weights.",
        group="Data",
        structural=True,
    )
    max_train_samples: int | None = _setting(
        None, "Train on the first N images of a seeded order.", group="Data", structural=True, ge=1
    )
    workers: int = _setting(
        0, "Loader processes; only for data that can't be packed.", group="Data", ge=0, le=256
    )
    shard_window: int = _setting(
        16,
        "Data in shards: how many are shuffled together at any time.",
        group="Data",
        unit="shards",
        structural=True,
        ge=1,
    )
    shard_streams: int = _setting(
        1,
        "Data in shards: equal parts of each batch with shards of their own; with as many as machines, each machine reads only its "
        "part of the data.",
        group="Data",
        structural=True,
        ge=1,
    )
    shard_cache_gb: float = _setting(
        20.0,
        "Data in shards: size of a machine's copies of downloaded shards; the ones used longest ago are removed.",
        group="Data",
        unit="GB",
        gt=0,
    )
    drop_last: bool = _setting(
        False, "Drop the last, smaller batch of an epoch.", group="Data", structural=True
    )
    sample_transform: str | None = _setting(
        None,
        "Per-sample transform module:function, PIL image to PIL image, e.g. a torchvision Compose; uses a DataLoader.",
        group="Data",
        structural=True,
    )
    collate_fn: str | None = _setting(
        None, "module:function that makes a batch out of samples.", group="Data", structural=True
    )
    sampler: Literal["shuffle", "balanced"] = _setting(
        "shuffle",
        "Order of train: every face once, or every class equally often.",
        group="Data",
        structural=True,
    )

    # --- Augmentation
    augment: bool = _setting(
        True, "Augment the train split.", group="Augmentation", structural=True
    )
    hflip: float = _setting(
        0.5, "Probability of a horizontal flip.", group="Augmentation", structural=True, ge=0, le=1
    )
    vflip: float = _setting(
        0.0, "Probability of a vertical flip.", group="Augmentation", structural=True, ge=0, le=1
    )
    rotate: float = _setting(
        5.0,
        "Rotation, uniform in +-.",
        group="Augmentation",
        unit="degrees",
        structural=True,
        ge=0,
        le=180,
    )
    scale: float = _setting(
        0.05, "Zoom, uniform in 1 +-.", group="Augmentation", structural=True, ge=0, lt=1
    )
    translate: float = _setting(
        0.05,
        "Shift, uniform in +-.",
        group="Augmentation",
        unit="share of the side",
        structural=True,
        ge=0,
        lt=1,
    )
    shear: float = _setting(
        0.0,
        "Shear, uniform in +-.",
        group="Augmentation",
        unit="degrees",
        structural=True,
        ge=0,
        lt=90,
    )
    brightness: float = _setting(
        0.0,
        "Brightness factor, uniform in 1 +-.",
        group="Augmentation",
        structural=True,
        ge=0,
        le=1,
    )
    contrast: float = _setting(
        0.0, "Contrast factor, uniform in 1 +-.", group="Augmentation", structural=True, ge=0, le=1
    )
    reprob: float = _setting(
        0.0, "Probability of random erasing.", group="Augmentation", structural=True, ge=0, le=1
    )
    blur: float = _setting(
        0.0,
        "Gaussian blur of every second face: largest standard deviation, in px of a 48 px face.",
        group="Augmentation",
        unit="px",
        structural=True,
        ge=0,
        le=10,
    )
    noise: float = _setting(
        0.0,
        "Gaussian noise on every second face: largest standard deviation, as a share of the full range.",
        group="Augmentation",
        structural=True,
        ge=0,
        le=1,
    )
    mixup: float = _setting(
        0.0, "Mix-up's alpha; 0 = off.", group="Augmentation", structural=True, ge=0, le=100
    )
    cutmix: float = _setting(
        0.0, "Cut-mix's alpha; 0 = off.", group="Augmentation", structural=True, ge=0, le=100
    )
    padding: Literal["zeros", "border", "reflection"] = _setting(
        "zeros", "What lies outside a moved face.", group="Augmentation", structural=True
    )
    batch_transform: str | None = _setting(
        None,
        "module:function(images_BCHW, generator) after the built-in augmentation.",
        group="Augmentation",
        structural=True,
    )

    # --- Model
    model: str = _setting(
        "fer48",
        "fer48, emotionnet, a torchvision classifier's name, timm:NAME, or module:Class.",
        group="Model",
        structural=True,
    )
    model_args: Annotated[dict[str, Any], BeforeValidator(_read_mapping)] = _setting(
        {},
        "Arguments of the network as YAML, e.g. '{widths: [32, 64, 128, 256]}'.",
        group="Model",
        structural=True,
    )
    # This and init_from are not structural: a resumed run has its weights from the checkpoint.
    pretrained: bool = _setting(
        False, "Start from the published weights of a torchvision or timm network.", group="Model"
    )
    init_from: str | None = _setting(None, "Start from the weights of this file.", group="Model")
    strict: bool = _setting(
        True, "Refuse an --init-from with missing or mismatched weights.", group="Model"
    )
    freeze: Names = _setting(
        (),
        "Parameters that stay as they are: names or globs, comma separated.",
        group="Model",
        structural=True,
    )
    dropout: float | None = _setting(
        None,
        "Dropout before the classifier. [default: the network's]",
        group="Model",
        structural=True,
        ge=0,
        lt=1,
    )
    norm: Literal["batch", "group"] = _setting(
        "batch", "Normalisation in the own networks.", group="Model", structural=True
    )

    # --- Loss
    loss: str = _setting(
        "ce",
        "ce, focal, soft, bce, a weighted sum such as ce+0.5*focal, or module:function.",
        group="Loss",
        structural=True,
    )
    smoothing: float = _setting(0.1, "Label smoothing.", group="Loss", structural=True, ge=0, lt=1)
    focal_gamma: float = _setting(
        2.0, "Focusing parameter of the focal loss.", group="Loss", structural=True, ge=0, le=10
    )
    class_weights: str = _setting(
        "none",
        "none, balanced, effective, or a csv or json file: name, weight.",
        group="Loss",
        structural=True,
    )

    teacher: Names = _setting(
        (),
        "Distillation: checkpoints or runs' folders whose averaged probabilities are a second target, comma separated.",
        group="Loss",
        structural=True,
        repeat=True,
    )
    distill_weight: float = _setting(
        0.5,
        "Share of the teacher's term in the loss; the labels have the rest.",
        group="Loss",
        structural=True,
        gt=0,
        le=1,
    )
    distill_temperature: float = _setting(
        2.0,
        "Softens the teacher's and the network's distributions.",
        group="Loss",
        structural=True,
        ge=1,
        le=100,
    )

    # --- Optimizer
    opt: Literal["sgd", "adam", "adamw", "rmsprop", "adagrad", "adadelta", "muon"] = _setting(
        "adamw",
        "Optimizer; muon = Muon for matrices and filters, AdamW for the rest.",
        group="Optimizer",
        structural=True,
    )
    # The rates are not structural: of the schedule, a resume point holds the number of steps alone.
    lr: float = _setting(
        0.003,
        "Learning rate; the peak for one-cycle. [default: 0.003 for adamw, adam and muon, 0.1 sgd, 0.001 rmsprop, "
        "0.01 adagrad, 1 adadelta]",
        group="Optimizer",
        gt=0,
        le=1000,
    )
    backbone_lr: float | None = _setting(
        None, "Learning rate of all but the head. [default: --lr]", group="Optimizer", gt=0, le=1000
    )
    head_lr: float | None = _setting(
        None, "Learning rate of the head. [default: --lr]", group="Optimizer", gt=0, le=1000
    )
    weight_decay: float = _setting(
        0.1,
        "Weight decay; never on norms and biases. [default: 0.1 for adamw and muon, 0.0005 for the others]",
        group="Optimizer",
        structural=True,
        ge=0,
        le=10,
    )
    momentum: float = _setting(
        0.9,
        "Momentum of SGD, RMSprop and Muon. [default: 0.9, and 0.95 for muon]",
        group="Optimizer",
        structural=True,
        ge=0,
        lt=1,
    )
    nesterov: bool = _setting(True, "Nesterov momentum (SGD).", group="Optimizer", structural=True)
    betas: Floats = _setting(
        (0.9, 0.999), "Betas of Adam, AdamW and Muon's AdamW.", group="Optimizer", structural=True
    )
    opt_eps: float | None = _setting(
        None,
        "Epsilon of the optimizer. [default: torch's]",
        group="Optimizer",
        structural=True,
        gt=0,
    )
    amsgrad: bool = _setting(False, "AMSGrad (Adam, AdamW).", group="Optimizer", structural=True)
    alpha: float = _setting(
        0.99, "Smoothing constant of RMSprop.", group="Optimizer", structural=True, ge=0, lt=1
    )
    lr_decay: float = _setting(
        0.0, "Learning-rate decay of Adagrad.", group="Optimizer", structural=True, ge=0
    )
    rho: float = _setting(0.9, "Rho of Adadelta.", group="Optimizer", structural=True, ge=0, lt=1)
    clip_grad: float | None = _setting(
        None, "Clip gradients at this norm or value.", group="Optimizer", structural=True, gt=0
    )
    clip_mode: Literal["norm", "value"] = _setting(
        "norm", "What --clip-grad limits.", group="Optimizer", structural=True
    )

    sam_rho: float = _setting(
        0.0,
        "Sharpness-aware minimisation (SAM): radius of the second pass, e.g. 0.05; 0 = off. Doubles the work.",
        group="Optimizer",
        structural=True,
        ge=0,
        le=10,
    )
    optimizer_factory: str | None = _setting(
        None,
        "Your own optimizer in place of --opt: module:function(parameter groups); its learning rate holds.",
        group="Optimizer",
        structural=True,
    )

    # --- Schedule
    sched: Literal[
        "constant", "step", "multistep", "exponential", "cosine", "onecycle", "cyclic", "plateau"
    ] = _setting(
        "onecycle",
        "Learning-rate schedule, counted in optimizer steps.",
        group="Schedule",
        structural=True,
    )
    warmup_epochs: float = _setting(
        0.0,
        "Linear warm-up in front of the schedule.",
        group="Schedule",
        unit="epochs",
        structural=True,
        ge=0,
    )
    warmup_start: float = _setting(
        0.01, "Factor at which the warm-up begins.", group="Schedule", structural=True, ge=0, le=1
    )
    min_lr: float = _setting(
        0.0,
        "Lowest learning rate, of all schedules but constant and onecycle.",
        group="Schedule",
        structural=True,
        ge=0,
    )
    decay_epochs: float = _setting(
        30.0,
        "Epochs between steps (step), up and down (cyclic).",
        group="Schedule",
        unit="epochs",
        structural=True,
        gt=0,
    )
    decay_rate: float = _setting(
        0.1,
        "Factor of step, multistep, plateau; of an epoch for exponential.",
        group="Schedule",
        structural=True,
        gt=0,
        lt=1,
    )
    milestones: Floats = _setting(
        (), "Epochs at which multistep decays.", group="Schedule", unit="epochs", structural=True
    )
    pct_start: float = _setting(
        0.3, "Share of one-cycle that rises.", group="Schedule", structural=True, gt=0, lt=1
    )
    div_factor: float = _setting(
        25.0, "One-cycle begins at --lr over this.", group="Schedule", structural=True, gt=1
    )
    final_div_factor: float = _setting(
        1e4, "One-cycle ends at its beginning over this.", group="Schedule", structural=True, gt=1
    )
    plateau_patience: int = _setting(
        5,
        "Evaluations without gain before plateau decays.",
        group="Schedule",
        unit="epochs",
        structural=True,
        ge=0,
    )

    image_size_schedule: str | None = _setting(
        None,
        "Progressive resizing: side in px until a share of the run's images, e.g. 32:0.5,40:0.8,48; ends at --image-size.",
        group="Schedule",
        structural=True,
        min_length=1,
    )

    # --- Training
    epochs: int = _setting(16, "Epochs.", group="Training", ge=1, le=1_000_000)
    batch_size: int = _setting(
        128,
        "Images per optimizer step, over all processes.",
        group="Training",
        unit="images",
        structural=True,
        ge=1,
        le=1_048_576,
    )
    grad_accum_steps: int = _setting(
        1,
        "Micro-batches per optimizer step; divides --batch-size.",
        group="Training",
        structural=True,
        ge=1,
    )
    eval_batch_size: int = _setting(
        512,
        "Images per evaluation batch and process.",
        group="Training",
        unit="images",
        ge=1,
        le=1_048_576,
    )
    precision: Literal["auto", "fp32", "fp16", "bf16"] = _setting(
        "auto",
        "Arithmetic of the forward pass; auto = bf16 where the device is fast at it.",
        group="Training",
        structural=True,
    )
    channels_last: bool = _setting(
        True, "Memory format of networks and images.", group="Training", structural=True
    )
    compile: bool = _setting(False, "torch.compile the network.", group="Training", structural=True)
    model_ema: bool = _setting(
        False, "Keep an average of the weights and evaluate it.", group="Training", structural=True
    )
    model_ema_decay: float = _setting(
        0.998,
        "Decay of that average, per optimizer step.",
        group="Training",
        structural=True,
        ge=1e-6,
        lt=1,
    )
    swa_start: float | None = _setting(
        None,
        "Stochastic weight averaging: from this share of the epochs on, evaluate the mean of the epochs' last weights.",
        group="Training",
        structural=True,
        ge=0,
        lt=1,
    )
    monitor: str = _setting(
        "accuracy",
        "Validation metric that chooses best.pt: accuracy, loss, uar, macro_f1, or a user's.",
        group="Training",
        min_length=1,
    )
    monitor_mode: Literal["auto", "max", "min"] = _setting(
        "auto",
        "Whether more or less of that metric is better; auto knows losses, errors and the usual scores by name.",
        group="Training",
    )
    patience: int = _setting(
        0,
        "Stop after this many epochs without gain; 0 = never.",
        group="Training",
        unit="epochs",
        ge=0,
    )
    min_delta: float = _setting(
        0.0,
        "Least gain that counts for --patience and for the schedule plateau.",
        group="Training",
        ge=0,
    )
    tta: Literal["none", "flip", "shift10", "shift18"] = _setting(
        "shift10",
        "Views averaged in the final scores of val and test, and by evaluate and predict.",
        group="Training",
        structural=True,
    )
    calibrate: Literal["val", "robust"] = _setting(
        "val",
        "Faces on which the temperature of the probabilities is fitted at the end: val, or val under the corruptions of evaluate "
        "--robustness too (1,000 of its faces; takes a minute or more).",
        group="Training",
    )
    score_test: bool = _setting(True, "Score test at the end of the run.", group="Training")
    seed: int = _setting(
        0,
        "Seed of weights, order, augmentation and dropout.",
        group="Training",
        structural=True,
        ge=0,
        lt=2**32,  # numpy's global generator takes no larger one
    )
    deterministic: bool = _setting(
        False,
        "Deterministic kernels on GPUs; CPU runs always are.",
        group="Training",
        structural=True,
    )
    max_time: Seconds | None = _setting(
        None,
        "Stop in good order after this long, e.g. 90s, 15m, 1h30m.",
        group="Training",
        unit="s, m, h",
        gt=0,
    )
    nonfinite_patience: int = _setting(
        10,
        "Optimizer steps in a row with a non-finite loss or gradients before the run fails.",
        group="Training",
        ge=1,
    )
    fast_dev_run: bool = _setting(
        False,
        "One epoch of three batches of train and val, whatever --epochs says, to see that everything works; no test.",
        group="Training",
    )
    handlers: Names = _setting(
        (),
        "module:function or ./file.py:function(session) that attaches handlers; repeatable.",
        group="Training",
        repeat=True,
    )

    # --- Output
    out: str = _setting(
        "runs",
        "Folder of runs, or a URL such as s3://BUCKET/runs: then a working copy in the cache is uploaded to it.",
        group="Output",
        min_length=1,
    )
    store_wait: Seconds = _setting(
        300.0,
        "Where --out is a URL: how long the end of a run waits for a store that is away.",
        group="Output",
        unit="s, m, h",
        ge=0,
    )
    name: str | None = _setting(
        None,
        "Name of the run's folder. [default: model and data, numbered]",
        group="Output",
        min_length=1,
    )
    exist_ok: bool = _setting(
        False, "Start a new run in a folder that holds a run.", group="Output"
    )
    resume: str | None = _setting(
        None,
        "auto = continue the run in the folder or start one; last; or a checkpoint's path or URL.",
        group="Output",
    )
    override: Names = _setting(
        (), "Structural settings that --resume may change, by name.", group="Output", repeat=True
    )
    save_epochs: int = _setting(
        1, "Resume point every N epochs.", group="Output", unit="epochs", ge=1
    )
    save_minutes: float = _setting(
        5.0, "And every N minutes.", group="Output", unit="minutes", gt=0
    )
    save_iterations: int | None = _setting(None, "And every N iterations.", group="Output", ge=1)
    # At least two: damage to the newest costs the time since the one before, not the run.
    keep_checkpoints: int = _setting(2, "Resume points kept.", group="Output", ge=2)
    keep_best: int = _setting(
        1,
        "Checkpoints of the K best epochs kept: best.pt, and with K above 1 also best-ITERATION.pt of each.",
        group="Output",
        ge=1,
        le=100,
    )
    log_every: int = _setting(50, "Iterations between logged steps.", group="Output", ge=1)
    tensorboard: bool = _setting(True, "Write TensorBoard files.", group="Output")
    track: Annotated[
        tuple[Literal["mlflow", "wandb", "clearml"], ...], BeforeValidator(_split_text)
    ] = _setting(
        (),
        "Also log to mlflow, wandb, clearml, comma separated; their own environment variables say where to.",
        group="Output",
    )
    project: str | None = _setting(
        None,
        "MLflow experiment, W&B or ClearML project. [default: the tracker's own setting, or fer_ignite]",
        group="Output",
        min_length=1,
    )
    track_checkpoints: bool = _setting(
        True, "Send best.pt to the trackers at the end.", group="Output"
    )
    predictions: bool = _setting(
        False,
        "Write predictions_val.csv and predictions_test.csv at the end: a line per face with its probabilities.",
        group="Output",
    )
    plots: bool = _setting(True, "Draw curves and confusion matrix.", group="Output")
    profile: Literal["none", "basic", "handlers"] = _setting(
        "none", "Ignite's time profilers, printed at the end.", group="Output"
    )
    quiet: bool = _setting(False, "Only warnings and the result.", group="Output")
    verbose: bool = _setting(False, "Also print the optimizer's parameter groups.", group="Output")
    summary: bool = _setting(
        False, "Also print the network's layers with their output shapes.", group="Output"
    )

    # --- Launch
    nproc: int | None = _setting(
        None,
        "Processes on this machine. [default: 1, or what torchrun or Slurm say]",
        group="Launch",
        ge=1,
    )
    nnodes: int = _setting(1, "Machines.", group="Launch", ge=1)
    node_rank: int = _setting(0, "This machine's number.", group="Launch", ge=0)
    master_addr: str | None = _setting(None, "Address of machine 0.", group="Launch")
    master_port: int | None = _setting(None, "Port on machine 0.", group="Launch", ge=1, le=65535)
    device: Literal["auto", "cpu", "cuda", "mps"] = _setting(
        "auto", "Where to train.", group="Launch"
    )
    gpus: Integers | None = _setting(None, "GPUs to use, e.g. 0,2.", group="Launch")
    threads: int | None = _setting(
        None,
        "CPU threads per process. [default: cores over processes]",
        group="Launch",
        ge=1,
        le=1024,
    )
    start_method: Literal["spawn", "forkserver", "fork"] = _setting(
        "spawn", "How processes start.", group="Launch"
    )
    dist_timeout: Seconds = _setting(
        300.0, "Longest wait of one process for the others.", group="Launch", unit="s", gt=0
    )
    sync_bn: bool = _setting(
        False, "Batch statistics over all processes (GPUs).", group="Launch", structural=True
    )

    def __repr__(self) -> str:
        defaults = default_settings({"opt": self.opt})
        values = self.model_dump(mode="json")
        changed = [
            f"{name}={getattr(self, name)!r}"
            for name in type(self).model_fields
            if values[name] != defaults[name] or (name == "opt" and "opt" in self.model_fields_set)
        ]
        return f"Config({', '.join(changed)})"

    __str__ = __repr__

    @model_validator(mode="after")
    def _shortened(self) -> "Config":
        if self.fast_dev_run:
            self.__dict__.update(epochs=1, score_test=False)  # frozen for everybody else
        return self

    @model_validator(mode="after")
    def _follow_the_optimizer(self) -> "Config":
        missing = {
            name: value
            for name, value in OPTIMIZER_DEFAULTS[self.opt].items()
            if name not in self.model_fields_set
        }
        # not among the fields that were set: a resumed run's checkpoint wins over them
        self.__dict__.update(missing)
        return self

    # Validators run in this order; the first contradiction is the one that is reported.
    @model_validator(mode="after")
    def _data_and_processes_fit(self) -> "Config":
        if self.batch_size % self.grad_accum_steps:
            raise ValueError(
                f"grad_accum_steps: {self.grad_accum_steps} does not divide batch_size {self.batch_size}; "
                "choose a divisor, --batch-size counts images per optimizer step"
            )
        if self.split is not None and (
            len(self.split) != 3 or min(self.split) < 0 or not math.isclose(sum(self.split), 1)
        ):
            raise ValueError(
                f"split: got {list(self.split)}, needs three shares of train,val,test that add up to 1"
            )
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas: got {list(self.betas)}, needs two numbers in [0, 1)")
        if (
            self.resize is not None
            and self.image_size is not None
            and self.resize < self.image_size
        ):
            raise ValueError(
                f"resize: {self.resize} is below image_size {self.image_size}; faces are resized first, then cropped"
            )
        if self.fold is not None and self.fold >= (self.folds or 0):
            raise ValueError(
                f"fold: {self.fold} of folds {self.folds}; give --folds K, and as --fold one of 0 to K - 1"
            )
        if self.node_rank >= self.nnodes:
            raise ValueError(
                f"node_rank: {self.node_rank} with nnodes {self.nnodes}; allowed are 0 to {self.nnodes - 1}"
            )
        return self

    @model_validator(mode="after")
    def _schedule_and_names_fit(self) -> "Config":
        if self.sched == "onecycle" and self.warmup_epochs > 0:
            raise ValueError(
                "warmup_epochs: one-cycle has a ramp of its own; set pct_start or another sched"
            )
        if self.sched == "multistep" and not self.milestones:
            raise ValueError("milestones: sched multistep needs at least one epoch, e.g. 30,45")
        if self.name is not None and (
            self.name in {".", ".."} or "/" in self.name or "\0" in self.name
        ):
            raise ValueError(
                f"name: got {self.name!r}, needs one folder name without '/'; --out says where it goes"
            )
        if self.name is not None and (not self.name.isprintable() or self.name.startswith("-")):
            raise ValueError(
                f"name: got {self.name!r}, needs printable characters and no '-' at the beginning"
            )
        for field, value in self:
            if any(
                "\0" in text
                for text in (value if isinstance(value, tuple) else (value,))
                if isinstance(text, str)
            ):
                raise ValueError(f"{field}: got {value!r}, needs text without NUL characters")
        return self

    @model_validator(mode="after")
    def _images_and_votes_fit(self) -> "Config":
        if self.image_size_schedule is not None:
            try:
                sides = [side for side, _ in parse_image_sizes(self.image_size_schedule)]
            except ValueError as error:
                raise ValueError(
                    f"image_size_schedule: got {self.image_size_schedule!r}, {error}"
                ) from None
            if self.image_size not in (None, sides[-1]):
                raise ValueError(
                    f"image_size_schedule: ends at {sides[-1]} px, image_size is {self.image_size}; let it end there"
                )
            if self.collate_fn is not None:
                raise ValueError(
                    "image_size_schedule: the sizes of batches that collate_fn makes are its own; leave one of the two out"
                )
        if self.vote_weight is not None and (
            self.votes is None or self.vote_mode == "distribution"
        ):
            raise ValueError(
                "vote_weight: needs --votes, and no --vote-mode distribution, which replaces the labels by the votes"
            )
        if self.calibrate == "robust" and self.collate_fn is not None:
            raise ValueError(
                "calibrate: faces that collate_fn has made into tensors can't be corrupted; leave one of the two out"
            )
        if any(weight <= 0 for weight in self.data_weights):
            raise ValueError(
                f"data_weights: got {list(self.data_weights)}, needs a number above 0 for each data set"
            )
        return self

    @model_validator(mode="after")
    def _optimizer_and_averages_fit(self) -> "Config":
        if self.sam_rho and self.grad_accum_steps > 1:
            raise ValueError(
                "sam_rho: the second pass needs the step's whole batch; set grad_accum_steps to 1 or sam_rho to 0"
            )
        if self.sam_rho and self.precision == "fp16":
            raise ValueError(
                "sam_rho: its second pass has no loss scaler; choose precision bf16 or fp32"
            )
        if self.swa_start is not None and self.model_ema:
            raise ValueError(
                "swa_start: the evaluation can use one average of the weights; leave out swa_start or model_ema"
            )
        if self.nesterov and self.opt == "sgd" and self.momentum == 0:
            raise ValueError(
                "nesterov: needs momentum above 0; set --no-nesterov or --momentum 0.9"
            )
        return self


def field_facts(name: str) -> dict[str, Any]:
    """Group, unit, structural mark and help of one field, as declared."""
    field = Config.model_fields[name]
    assert isinstance(field.json_schema_extra, dict)
    return {**field.json_schema_extra, "help": field.description, "default": field.default}


# Names in Lightning, Hugging Face, timm and elsewhere: for the hint of an error only, not as
# aliases.
_OTHERS_CALL_IT = {
    "learning_rate": "lr",
    "optimizer": "opt",
    "optim": "opt",
    "scheduler": "sched",
    "lr_scheduler": "sched",
    "ema": "model_ema",
    "swa": "swa_start",
    "sam": "sam_rho",
    "rho_sam": "sam_rho",
    "kd_weight": "distill_weight",
    "distillation": "teacher",
    "progressive_resizing": "image_size_schedule",
    "dataset": "data",
    "num_workers": "workers",
    "criterion": "loss",
    "early_stopping": "patience",
    "amp": "precision",
    "batch": "batch_size",
    "bs": "batch_size",
    "img_size": "image_size",
    "input_size": "image_size",
    "size": "image_size",
    "epoch": "epochs",
    "num_epochs": "epochs",
    "max_epochs": "epochs",
    "wd": "weight_decay",
    "label_smoothing": "smoothing",
    "gradient_clip_val": "clip_grad",
    "grad_clip": "clip_grad",
    "clip": "clip_grad",
    "accumulate_grad_batches": "grad_accum_steps",
    "gradient_accumulation_steps": "grad_accum_steps",
    "accumulation": "grad_accum_steps",
    "random_seed": "seed",
    "arch": "model",
    "architecture": "model",
    "network": "model",
    "backbone": "model",
    "output_dir": "out",
    "output": "out",
    "save_dir": "out",
    "run_name": "name",
    "gpu": "gpus",
    "accelerator": "device",
    "devices": "nproc",
    "processes": "nproc",
    "dataset_path": "data",
    "data_dir": "data",
    "root": "data",
    "warmup": "warmup_epochs",
    "finetune": "init_from",
    "weights": "init_from",
    "checkpoint": "resume",
    "mixed_precision": "precision",
    "half": "precision",
    "limit_train_batches": "max_train_samples",
    "logger": "track",
    "random_erasing": "reprob",
    "metric": "monitor",
}


def nearest_setting(name: str) -> str | None:
    """The setting that a word means, by what other trainers call it, else by spelling; None where none is near."""
    name = name.replace("-", "_").lower()
    if name in _OTHERS_CALL_IT:
        return _OTHERS_CALL_IT[name]
    near = difflib.get_close_matches(name, Config.model_fields, n=1)
    return near[0] if near else None


def json_schema() -> dict[str, Any]:
    """The settings as a JSON schema (draft 2020-12): types, ranges, choices, defaults and descriptions."""
    schema = Config.model_json_schema()
    properties = {}
    for name, entry in schema["properties"].items():
        facts, field = field_facts(name), Config.model_fields[name]
        unit = f" ({facts['unit']})" if facts["unit"] else ""
        shape = {key: value for key, value in entry.items() if key not in _REPLACED}
        default = {"default": shape.pop("default")}
        if _takes_text((field.annotation, *field.metadata)):
            shape = {"anyOf": [*shape.get("anyOf", [shape]), {"type": "string"}]}
        described = {"title": facts["group"], "description": facts["help"] + unit}
        properties[name] = {**described, **default, **shape}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "fer_ignite configuration",
        "description": "Settings of `fer-ignite train --config FILE`.",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        **({"$defs": schema["$defs"]} if "$defs" in schema else {}),
    }


def _takes_text(parts: Sequence[Any]) -> bool:
    """Whether a setting's type also reads a text: a list with commas, a duration, a mapping in YAML."""
    return any(isinstance(part, BeforeValidator) or _takes_text(get_args(part)) for part in parts)


# What _setting adds to a field, and what is said in the settings' own words.
_REPLACED = ("group", "unit", "structural", "repeat", "title", "description")


def check(values: Mapping[str, Any]) -> Config:
    """The configuration that ``values`` and the defaults make.

    Raises:
        ConfigError: an unknown key (with the nearest known one), or the first wrong value.
    """
    # Before pydantic, whose message for an unknown key names no near one.
    unknown = [key for key in values if key not in Config.model_fields]
    if unknown:
        name = str(unknown[0])
        near = nearest_setting(name)
        hint = f"did you mean {near!r}?" if near else "--print-config lists all settings."
        raise ConfigError(f"there is no setting {unknown[0]!r}; {hint}")
    try:
        return Config(**values)
    except ValidationError as error:
        raise ConfigError(_sentence(error)) from None


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return f"{message}."
    message = message.replace("Input should be", "needs to be").rstrip(".")
    name = str(first["loc"][0])
    flag = "--" + name.replace("_", "-")
    return f"{flag} (setting {name}): got {first['input']!r}, {message}."


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The settings in a YAML file.

    Raises:
        ConfigError: no such file, no regular file, above 1 MB, not YAML, or not a mapping of settings.
    """
    try:
        # a device or a pipe could be read for ever
        if Path(path).exists() and not Path(path).is_file():
            raise ConfigError(
                f"{path} can't be read as a configuration: it is no regular file; name a YAML file."
            )
        if Path(path).stat().st_size > _LARGEST_YAML:
            raise ConfigError(
                f"{path} is above {_LARGEST_YAML:,} bytes, and a configuration has at most that."
            )
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{path} can't be read as a configuration: {reason}.") from None
    try:
        values = parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}.") from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(
            f"{path} holds no settings; write one 'name: value' per line, as --print-config does."
        )
    return {key.replace("-", "_"): value for key, value in values.items()}


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of all layers, the later ones winning.

    Learning rates and weight decay belong to the optimizer that their layer names: where a later layer names another
    optimizer, they are dropped, so that its own values or that optimizer's defaults hold.
    """
    values: dict[str, Any] = {}
    for layer in layers:
        if "opt" in values and layer.get("opt", values["opt"]) != values["opt"]:
            values = {name: value for name, value in values.items() if name not in OF_ONE_OPTIMIZER}
        values.update(layer)
    return values


def default_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """All defaults as plain values, those that follow the optimizer for the one that ``settings`` names."""
    given: dict[str, Any] = (
        {"opt": settings["opt"]} if settings.get("opt") in OPTIMIZER_DEFAULTS else {}
    )
    return Config(**given).model_dump(mode="json")


def changed_settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings that differ, as ``{name: (old, new)}``; a setting that one side lacks counts with its default."""
    before, after = {**default_settings(old), **old}, {**default_settings(new), **new}
    return {
        name: (before[name], after[name]) for name in sorted(after) if before[name] != after[name]
    }

"""Settings of the data: source, splits, preprocessing, reading."""

import math
from typing import Annotated, Literal

from pydantic import BeforeValidator, model_validator

from fer_ignite.config.fields import Floats, SettingsGroup, join_sources, setting

__all__ = ["DATA_SETTINGS", "READING_SETTINGS", "DataSettings"]

# How a data set's files are read; commands that read data take them all.
READING_SETTINGS = (
    "layout",
    "peak_frames",
    "neutral_frames",
    "group_by",
    "follow_links",
    "crop_faces",
)
# Which images there are, in which split, and their pixels.
DATA_SETTINGS = (
    *READING_SETTINGS,
    "classes",
    "split",
    "val_fraction",
    "split_seed",
    "cache",
    "channels",
    "image_size",
    "resize_mode",
)


class DataSettings(SettingsGroup):
    """Group Data of the configuration; a field is a flag, its description the help text."""

    data: Annotated[str, BeforeValidator(join_sources)] = setting(
        "demo",
        "Class folders, a published data set's folder, fer2013.csv (also gzipped), a manifest csv, a dataset cache, a URL of these (s3://...), "
        "kaggle:OWNER/NAME, shards:URL, "
        "module:Dataset, demo or demo:N; repeated (or comma separated): the union.",
        structural=True,
        repeat=True,
        min_length=1,
    )
    data_weights: Floats = setting(
        (),
        "Weight of each data set's faces in the loss, for several --data, e.g. 1,0.5; scaled to a mean of 1. [default: equal]",
        structural=True,
    )
    layout: Literal[
        "auto", "folders", "csv", "fer2013", "rafdb", "affectnet", "ckplus", "jaffe", "kdef", "expw"
    ] = setting(
        "auto",
        "Published data set whose layout or numbering the data has; auto = recognised by its files.",
        structural=True,
    )
    peak_frames: int = setting(
        3, "CK+: last frames of each sequence that are taken.", structural=True, ge=1
    )
    neutral_frames: bool = setting(
        False, "CK+: take the first frame of each sequence as neutral.", structural=True
    )
    group_by: str | None = setting(
        None,
        "Regular expression that finds the person or film in an image's name, e.g. 'S[0-9]+'; a group stays in one split.",
        structural=True,
        min_length=1,
    )
    follow_links: bool = setting(
        False, "Read symbolic links that lead out of the data's folder.", structural=True
    )
    crop_faces: bool = setting(
        False,
        "Photographs: find, align and cut out the largest face of each; what has none is a bad image.",
        structural=True,
    )
    votes: str | None = setting(
        None, "FER+ votes file (fer2013new.csv) for a fer2013.csv.", structural=True
    )
    vote_mode: Literal["majority", "distribution"] = setting(
        "majority", "What the votes become: one label, or soft labels.", structural=True
    )
    vote_weight: float | None = setting(
        None,
        "FER+ votes as a second target of train beside the data's own labels: their share. Classes, val and test stay the data's.",
        structural=True,
        gt=0,
        le=1,
    )
    classes: str | None = setting(
        None, "Order, rename or merge classes: 'angry,happy,calm=neutral+sad'.", structural=True
    )
    split: Floats | None = setting(
        None,
        "Shares of train,val,test for data without them; 0.8,0.1,0.1 where not given.",
        structural=True,
    )
    val_fraction: float = setting(
        0.1,
        "Share of train that becomes val where the data has no val.",
        structural=True,
        gt=0,
        lt=1,
    )
    split_seed: int = setting(
        0, "Seed of the split, independent of --seed.", structural=True, ge=0, lt=2**63
    )
    drop_train_duplicates: bool = setting(
        False, "Leave train images out that also occur in val or test.", structural=True
    )
    exclude: str | None = setting(
        None,
        "Leave the train images out that this audit.csv (column id; drop = yes where there is one) lists.",
        structural=True,
        min_length=1,
    )
    folds: int | None = setting(
        None,
        "Cross-validation: deal train and val into this many folds, train once for each; test is not touched.",
        structural=True,
        ge=2,
        le=100,
    )
    fold: int | None = setting(
        None,
        "Train only the run that is judged by this fold of --folds, counted from 0.",
        structural=True,
        ge=0,
    )
    bad_images: Literal["error", "skip"] = setting(
        "error", "Unusable images and csv rows: stop with a list of them, or skip them."
    )
    cache: str | None = setting(
        None, "Where dataset caches are kept. [default: $FER_IGNITE_CACHE or the user's cache]"
    )
    channels: Literal["auto", "gray", "rgb"] = setting(
        "auto", "Colour of the stored faces; auto = gray where all images are.", structural=True
    )
    image_size: int | None = setting(
        None,
        "Side of the network's input. [default: the data's own; the median, at most 224, where images differ or are not square]",
        unit="px",
        structural=True,
        ge=16,
        le=1024,
    )
    resize: int | None = setting(
        None,
        "Side to which faces are resized before the crop to --image-size. [default: no crop]",
        unit="px",
        structural=True,
        ge=16,
        le=2048,
    )
    resize_mode: Literal["squash", "letterbox", "crop"] = setting(
        "squash", "How a face that is not square becomes square.", structural=True
    )
    normalize: Literal["train", "imagenet", "model"] = setting(
        "train",
        "Mean and standard deviation: the train split's, ImageNet's, or those of the network's published weights.",
        structural=True,
    )
    max_train_samples: int | None = setting(
        None, "Train on the first N images of a seeded order.", structural=True, ge=1
    )
    workers: int = setting(
        0,
        "Loader processes, for data that is read sample by sample: a Python data set, or with --sample-transform.",
        ge=0,
        le=256,
    )
    shard_window: int = setting(
        16,
        "Data in shards: how many are shuffled together at any time.",
        unit="shards",
        structural=True,
        ge=1,
    )
    shard_streams: int = setting(
        1,
        "Data in shards: equal parts of each batch with shards of their own; with as many as machines, each machine reads only its "
        "part of the data.",
        structural=True,
        ge=1,
    )
    shard_cache_gb: float = setting(
        20.0,
        "Data in shards: largest size of a machine's copies of downloaded shards; the least recently used ones are removed.",
        unit="GB",
        gt=0,
    )
    drop_last: bool = setting(False, "Drop the last, smaller batch of an epoch.", structural=True)
    sample_transform: str | None = setting(
        None,
        "Per-sample transform module:function, PIL image to PIL image, e.g. a torchvision Compose; uses a DataLoader.",
        structural=True,
    )
    collate_fn: str | None = setting(
        None, "module:function that makes a batch out of samples.", structural=True
    )
    sampler: Literal["shuffle", "balanced"] = setting(
        "shuffle", "Order of train: every face once, or every class equally often.", structural=True
    )

    @model_validator(mode="after")
    def _data_fits(self) -> "DataSettings":
        if self.split is not None and (
            len(self.split) != 3 or min(self.split) < 0 or not math.isclose(sum(self.split), 1)
        ):
            raise ValueError(
                f"split: got {list(self.split)}, needs three shares of train,val,test that add up to 1"
            )
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
        if self.vote_weight is not None and (
            self.votes is None or self.vote_mode == "distribution"
        ):
            raise ValueError(
                "vote_weight: needs --votes, and no --vote-mode distribution, which replaces the labels by the votes"
            )
        if any(weight <= 0 for weight in self.data_weights):
            raise ValueError(
                f"data_weights: got {list(self.data_weights)}, needs a number above 0 for each data set"
            )
        return self

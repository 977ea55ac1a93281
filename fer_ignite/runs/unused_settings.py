"""Warnings about settings that have no effect beside the others, such as a momentum for AdamW."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from fer_ignite.config import Config, default_settings
from fer_ignite.data.cache.format import is_cache
from fer_ignite.data.readers.find import is_user_dataset
from fer_ignite.data.shards.remote import is_shards
from fer_ignite.imports import OBJECT
from fer_ignite.recipes import read_recipe, recipe_names
from fer_ignite.terminal import flag_words
from fer_ignite.training.optim import OPTIMIZER_SETTINGS

__all__ = ["unused_settings"]


class _Rule(NamedTuple):
    settings: tuple[str, ...]
    used: Callable[[Config], Any]
    needs: str  # what gives the settings an effect, in the command line's words


def _scheduled(*names: str) -> Callable[[Config], bool]:
    return lambda config: config.sched in names


def _moves_pixels(config: Config) -> bool:
    return bool(config.rotate or config.scale or config.translate or config.shear)


def _is_class(config: Config) -> bool:
    return is_user_dataset(config.data)


def _is_packed(config: Config) -> bool:
    return is_shards(config.data) or is_cache(Path(config.data))


def _is_used_as_packed(config: Config) -> bool:
    # Of a dataset cache, --classes makes another one.
    return _is_packed(config) and config.classes is None


_FILES = "image files or a csv as --data"
_READING = ("bad_images", "crop_faces", "follow_links", "neutral_frames", "peak_frames")
_SHARDS = ("shard_window", "shard_streams", "shard_cache_gb")
_ONE_CYCLE = ("pct_start", "div_factor", "final_div_factor")
_AUGMENTATION = (
    *("hflip", "vflip", "rotate", "scale", "translate", "shear", "brightness", "contrast"),
    *("reprob", "blur", "noise", "mixup", "cutmix", "padding"),
)

_RULES = (
    _Rule(_SHARDS, lambda c: "shards:" in c.data, "--data shards:URL"),
    _Rule(_READING, lambda c: not (_is_class(c) or _is_packed(c)), _FILES),
    _Rule(("group_by", "layout"), lambda c: not (_is_class(c) or _is_used_as_packed(c)), _FILES),
    _Rule(("resize_mode",), lambda c: not _is_packed(c), _FILES),
    _Rule(("channels", "val_fraction"), lambda c: not _is_used_as_packed(c), _FILES),
    _Rule(("split_seed",), lambda c: c.folds or not _is_used_as_packed(c), _FILES),
    _Rule(("drop_train_duplicates", "split", "votes"), lambda c: not _is_class(c), _FILES),
    # A data set that is a Python object takes its names from them.
    _Rule(("classes",), lambda c: not _is_class(c) or c.data.startswith(OBJECT), _FILES),
    _Rule(("vote_mode",), lambda c: c.votes, "--votes"),
    _Rule(_AUGMENTATION, lambda c: c.augment, "--augment"),
    _Rule(("padding",), _moves_pixels, "--rotate, --scale, --translate or --shear"),
    _Rule(("focal_gamma",), lambda c: "focal" in c.loss, "--loss focal"),
    _Rule(("distill_weight", "distill_temperature"), lambda c: c.teacher, "--teacher"),
    _Rule(
        ("lr", "backbone_lr", "head_lr", "weight_decay"),
        lambda c: not c.optimizer_factory,
        "an optimizer of --opt, without --optimizer-factory",
    ),
    _Rule(("clip_mode",), lambda c: c.clip_grad, "--clip-grad"),
    _Rule(("warmup_start",), lambda c: c.warmup_epochs, "--warmup-epochs"),
    _Rule(
        ("min_lr",),
        _scheduled("cosine", "cyclic", "exponential", "multistep", "plateau", "step"),
        "--sched cosine, cyclic, exponential, multistep, plateau or step",
    ),
    _Rule(("decay_epochs",), _scheduled("step", "cyclic"), "--sched step or cyclic"),
    _Rule(
        ("decay_rate",),
        _scheduled("step", "multistep", "exponential", "plateau"),
        "--sched step, multistep, exponential or plateau",
    ),
    _Rule(("milestones",), _scheduled("multistep"), "--sched multistep"),
    _Rule(_ONE_CYCLE, _scheduled("onecycle"), "--sched onecycle"),
    _Rule(("plateau_patience",), _scheduled("plateau"), "--sched plateau"),
    _Rule(
        ("min_delta",),
        lambda c: c.patience or c.sched == "plateau",
        "--patience or --sched plateau",
    ),
    _Rule(("model_ema_decay",), lambda c: c.model_ema, "--model-ema"),
    _Rule(("project",), lambda c: c.track, "--track"),
    _Rule(("track_checkpoints",), lambda c: c.track, "--track"),
    _Rule(("store_wait",), lambda c: "://" in c.out, "--out with a URL"),
    _Rule(("override",), lambda c: c.resume, "--resume"),
)


def unused_settings(config: Config) -> list[str]:
    """A sentence for each setting that was changed from its default and that nothing reads beside the other settings.

    Settings at their default are passed over, and at the value of a shipped recipe: nobody has to know what a recipe sets.
    """
    values = config.model_dump(mode="json")
    defaults = default_settings(values)
    # What is switched off, such as nesterov, is no surprise where it isn't there.
    changed = {name for name, value in values.items() if value not in (defaults[name], False)}
    found: dict[str, str] = {}
    for rule in _RULES:
        if not rule.used(config):
            found.update({name: rule.needs for name in rule.settings if name in changed})
    # A factory's optimizer is made without any of them.
    read = () if config.optimizer_factory else OPTIMIZER_SETTINGS[config.opt]
    for name in sorted({n for names in OPTIMIZER_SETTINGS.values() for n in names} - set(read)):
        # eps is the name in torch.
        setting = "opt_eps" if name == "eps" else name
        if setting in changed:
            takers = sorted(opt for opt, names in OPTIMIZER_SETTINGS.items() if name in names)
            found[setting] = f"--opt {' or '.join(takers)}, without --optimizer-factory"
    return [
        f"{' '.join(flag_words(name, values[name]))} has no effect here; it needs {needs}."
        for name, needs in found.items()
        if not _is_of_a_recipe(name, values[name])
    ]


def _is_of_a_recipe(name: str, value: Any) -> bool:
    return any(read_recipe(recipe).get(name) == value for recipe in recipe_names())

"""``Config``: all groups of settings as one frozen object, and the checks across groups."""

from collections.abc import Mapping
from typing import Any

from pydantic import model_validator

from fer_ignite.config.augmentation import AugmentationSettings
from fer_ignite.config.data import DataSettings
from fer_ignite.config.fields import SettingsGroup, parse_image_sizes
from fer_ignite.config.launch import LaunchSettings
from fer_ignite.config.loss import LossSettings
from fer_ignite.config.model import ModelSettings
from fer_ignite.config.optimizer import OPTIMIZER_DEFAULTS, OptimizerSettings, optimizer_defaults
from fer_ignite.config.output import OutputSettings
from fer_ignite.config.schedule import ScheduleSettings
from fer_ignite.config.training import TrainingSettings

__all__ = ["GROUPS", "Config", "changed_settings", "default_settings", "field_facts"]

# In the order of --help-all and config.yaml.
GROUPS: Mapping[str, type[SettingsGroup]] = {
    "Data": DataSettings,
    "Augmentation": AugmentationSettings,
    "Model": ModelSettings,
    "Loss": LossSettings,
    "Optimizer": OptimizerSettings,
    "Schedule": ScheduleSettings,
    "Training": TrainingSettings,
    "Output": OutputSettings,
    "Launch": LaunchSettings,
}


# pydantic collects the fields of the last base first.
class Config(
    LaunchSettings,
    OutputSettings,
    TrainingSettings,
    ScheduleSettings,
    OptimizerSettings,
    LossSettings,
    ModelSettings,
    AugmentationSettings,
    DataSettings,
):
    """The whole configuration of a run; keyword-only, frozen, every value checked.

    Raises:
        ConfigError: through :func:`check`, one sentence for the first wrong value. (pydantic's ``ValidationError``
            when the class is called directly.)
    """

    def __repr__(self) -> str:
        # Under this optimizer's defaults opt itself never differs, so it is shown where it was set.
        defaults = default_settings({"opt": self.opt, "model": self.model})
        values = self.model_dump(mode="json")
        changed = [
            f"{name}={getattr(self, name)!r}"
            for name in type(self).model_fields
            if values[name] != defaults[name] or (name == "opt" and "opt" in self.model_fields_set)
        ]
        return f"Config({', '.join(changed)})"

    __str__ = __repr__

    @model_validator(mode="after")
    def _groups_fit(self) -> "Config":
        if self.image_size_schedule is not None:
            side = parse_image_sizes(self.image_size_schedule)[-1][0]
            if self.image_size not in (None, side):
                raise ValueError(
                    f"image_size_schedule: ends at {side} px, image_size is {self.image_size}; let it end there"
                )
            if self.collate_fn is not None:
                raise ValueError(
                    "image_size_schedule: the sizes of batches that collate_fn makes are its own; leave one of the two out"
                )
        if self.calibrate == "robust" and self.collate_fn is not None:
            raise ValueError(
                "calibrate: faces that collate_fn has made into tensors can't be corrupted; leave one of the two out"
            )
        if self.logit_adjustment and self.sampler == "balanced":
            raise ValueError(
                "logit_adjustment: the balanced sampler shows every class equally often already; leave one of the two out"
            )
        if self.teacher and self.folds is not None:
            raise ValueError(
                "teacher: one was trained on the faces that each of folds holds out; leave one of the two out"
            )
        if self.sam_rho and self.grad_accum_steps > 1:
            raise ValueError(
                "sam_rho: the second pass needs the step's whole batch; set grad_accum_steps to 1 or sam_rho to 0"
            )
        if self.sam_rho and self.precision == "fp16":
            raise ValueError(
                "sam_rho: its second pass has no loss scaler; choose precision bf16 or fp32"
            )
        return self

    @model_validator(mode="after")
    def _texts_have_no_nul(self) -> "Config":
        for field, value in self:
            if any(
                "\0" in text
                for text in (value if isinstance(value, tuple) else (value,))
                if isinstance(text, str)
            ):
                raise ValueError(f"{field}: got {value!r}, needs text without NUL characters")
        return self


def field_facts(name: str) -> dict[str, Any]:
    """Group, unit, structural mark and help of one field, as declared."""
    field = Config.model_fields[name]
    assert isinstance(field.json_schema_extra, dict)
    return {
        **field.json_schema_extra,
        "group": _GROUP_OF[name],
        "help": field.description,
        "default": field.default,
    }


_GROUP_OF = {name: title for title, group in GROUPS.items() for name in group.model_fields}


def default_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """All defaults as plain values, those that follow optimizer and network for the ones that ``settings`` names."""
    # A checkpoint of another version may name an optimizer that this one lacks.
    named = str(settings.get("opt"))
    opt = named if named in OPTIMIZER_DEFAULTS else Config().opt
    followed = optimizer_defaults(opt, model=str(settings.get("model", Config().model)))
    return {**Config().model_dump(mode="json"), "opt": opt, **followed}


def changed_settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings that differ, as ``{name: (old, new)}``; a setting that one side lacks counts with its default."""
    before, after = {**default_settings(old), **old}, {**default_settings(new), **new}
    # Of the new side alone: a setting that this version no longer has changes nothing.
    return {
        name: (before[name], after[name]) for name in sorted(after) if before[name] != after[name]
    }

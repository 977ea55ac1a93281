"""Settings of the learning rate's schedule and of progressive resizing."""

from typing import Literal

from pydantic import model_validator

from fer_ignite.config.fields import Floats, SettingsGroup, parse_image_sizes, setting

__all__ = ["ScheduleSettings"]


class ScheduleSettings(SettingsGroup):
    """Group Schedule of the configuration; a field is a flag, its description the help text."""

    sched: Literal[
        "constant", "step", "multistep", "exponential", "cosine", "onecycle", "cyclic", "plateau"
    ] = setting("onecycle", "Learning-rate schedule, counted in optimizer steps.", structural=True)
    warmup_epochs: float = setting(
        0.0, "Linear warm-up in front of the schedule.", unit="epochs", structural=True, ge=0
    )
    warmup_start: float = setting(
        0.01, "Factor at which the warm-up begins.", structural=True, ge=0, le=1
    )
    min_lr: float = setting(
        0.0,
        "Lowest learning rate, of all schedules but constant and onecycle.",
        structural=True,
        ge=0,
    )
    decay_epochs: float = setting(
        30.0,
        "Epochs between steps (step), up and down (cyclic).",
        unit="epochs",
        structural=True,
        gt=0,
    )
    decay_rate: float = setting(
        0.1,
        "Factor of step, multistep, plateau; of an epoch for exponential.",
        structural=True,
        gt=0,
        lt=1,
    )
    milestones: Floats = setting(
        (), "Epochs at which multistep decays.", unit="epochs", structural=True
    )
    pct_start: float = setting(0.3, "Share of one-cycle that rises.", structural=True, gt=0, lt=1)
    div_factor: float = setting(25.0, "One-cycle begins at --lr over this.", structural=True, gt=1)
    final_div_factor: float = setting(
        1e4, "One-cycle ends at its beginning over this.", structural=True, gt=1
    )
    plateau_patience: int = setting(
        5, "Evaluations without gain before plateau decays.", unit="epochs", structural=True, ge=0
    )

    image_size_schedule: str | None = setting(
        None,
        "Progressive resizing: side in px until a share of the run's images, e.g. 32:0.5,40:0.8,48; ends at --image-size.",
        structural=True,
        min_length=1,
    )

    @model_validator(mode="after")
    def _schedule_fits(self) -> "ScheduleSettings":
        if self.sched == "onecycle" and self.warmup_epochs > 0:
            raise ValueError(
                "warmup_epochs: one-cycle has a ramp of its own; set pct_start or another sched"
            )
        if self.sched == "multistep" and not self.milestones:
            raise ValueError("milestones: sched multistep needs at least one epoch, e.g. 30,45")
        if self.image_size_schedule is not None:
            try:
                parse_image_sizes(self.image_size_schedule)
            except ValueError as error:
                raise ValueError(
                    f"image_size_schedule: got {self.image_size_schedule!r}, {error}"
                ) from None
        return self

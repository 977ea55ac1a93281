"""Settings of the run's folder, checkpoints, logging and tracking."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, model_validator

from fer_ignite.config.fields import Names, Seconds, SettingsGroup, setting, split_text

__all__ = ["OutputSettings"]


class OutputSettings(SettingsGroup):
    """Group Output of the configuration; a field is a flag, its description the help text."""

    out: str = setting(
        "runs",
        "Folder of runs, or a URL such as s3://BUCKET/runs: then a working copy in the cache is uploaded to it.",
        min_length=1,
    )
    store_wait: Seconds = setting(
        300.0,
        "Where --out is a URL: how long the end of a run waits for a store that does not answer.",
        unit="s, m, h",
        ge=0,
    )
    name: str | None = setting(
        None, "Name of the run's folder. [default: model and data, numbered]", min_length=1
    )
    exist_ok: bool = setting(False, "Start a new run in a folder that holds a run.")
    resume: str | None = setting(
        None,
        "auto = continue the run in the folder, or start one where there is none; last = the same, refused where there is none; or the "
        "path or URL of a checkpoint, or of a run's folder for its newest resume point.",
    )
    override: Names = setting(
        (), "Structural settings that --resume may change, by name.", repeat=True
    )
    save_epochs: int = setting(1, "Save a resume point every N epochs.", unit="epochs", ge=1)
    save_minutes: float = setting(
        5.0, "Also save a resume point every N minutes.", unit="minutes", gt=0
    )
    save_iterations: int | None = setting(
        None, "Also save a resume point every N iterations.", ge=1
    )
    # At least two: damage to the newest costs the time since the one before, not the run.
    keep_checkpoints: int = setting(2, "Resume points kept, the newest ones.", ge=2)
    keep_best: int = setting(
        1,
        "Checkpoints of the K best epochs kept: best.pt, and with K above 1 also best-ITERATION.pt of each.",
        ge=1,
        le=100,
    )
    log_every: int = setting(50, "Iterations between logged steps.", ge=1)
    tensorboard: bool = setting(True, "Write TensorBoard files.")
    track: Annotated[
        tuple[Literal["mlflow", "wandb", "clearml"], ...], BeforeValidator(split_text)
    ] = setting(
        (),
        "Also log to mlflow, wandb, clearml, comma separated; their own environment variables say where to.",
    )
    project: str | None = setting(
        None,
        "MLflow experiment, W&B or ClearML project. [default: the tracker's own setting, or fer_ignite]",
        min_length=1,
    )
    track_checkpoints: bool = setting(True, "Send best.pt to the trackers at the end.")
    predictions: bool = setting(
        False,
        "Write predictions_val.csv and predictions_test.csv at the end: a line per face with its probabilities.",
    )
    plots: bool = setting(True, "Draw curves and confusion matrix.")
    profile: Literal["none", "basic", "handlers"] = setting(
        "none", "Ignite's time profilers, printed at the end."
    )
    quiet: bool = setting(False, "Only warnings and the result.")
    verbose: bool = setting(False, "Also print the optimizer's parameter groups.")
    summary: bool = setting(False, "Also print the network's layers with their output shapes.")

    @property
    def resumes_from_named(self) -> bool:
        """Whether ``--resume`` names what to continue from, a file, a run's folder or a URL."""
        return self.resume not in (None, "auto", "last")

    @model_validator(mode="after")
    def _name_is_a_folder(self) -> "OutputSettings":
        if self.name is not None and (
            self.name in {".", ".."} or "/" in self.name or "\0" in self.name
        ):
            raise ValueError(
                f"name: got {self.name!r}, needs one folder name without '/'; --out says where it goes"
            )
        # Commands and messages repeat the name: -x is a flag there, control characters move the
        # cursor.
        if self.name is not None and (not self.name.isprintable() or self.name.startswith("-")):
            raise ValueError(
                f"name: got {self.name!r}, needs printable characters and no '-' at the beginning"
            )
        return self

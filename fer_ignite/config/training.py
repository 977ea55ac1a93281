"""Settings of the training loop, evaluation and early stopping."""

from typing import Literal

from pydantic import model_validator

from fer_ignite.config.fields import Names, Seconds, SettingsGroup, setting

__all__ = ["TrainingSettings"]


class TrainingSettings(SettingsGroup):
    """Group Training of the configuration; a field is a flag, its description the help text."""

    epochs: int = setting(16, "Epochs.", ge=1, le=1_000_000)
    batch_size: int = setting(
        128,
        "Images per optimizer step, over all processes.",
        unit="images",
        structural=True,
        ge=1,
        le=1_048_576,
    )
    grad_accum_steps: int = setting(
        1, "Micro-batches per optimizer step; divides --batch-size.", structural=True, ge=1
    )
    eval_batch_size: int = setting(
        512, "Images per evaluation batch and process.", unit="images", ge=1, le=1_048_576
    )
    precision: Literal["auto", "fp32", "fp16", "bf16"] = setting(
        "auto",
        "Arithmetic of the forward pass; auto = bf16 where the device is fast at it.",
        structural=True,
    )
    channels_last: bool = setting(True, "Memory format of networks and images.", structural=True)
    compile: bool = setting(False, "torch.compile the network.", structural=True)
    model_ema: bool = setting(
        False, "Keep an exponential moving average of the weights and evaluate it.", structural=True
    )
    model_ema_decay: float = setting(
        0.998,
        "Decay of the average of --model-ema, per optimizer step.",
        structural=True,
        ge=1e-6,
        lt=1,
    )
    swa_start: float | None = setting(
        None,
        "Stochastic weight averaging: from this share of the epochs on, evaluate the mean of the epochs' last weights.",
        structural=True,
        ge=0,
        lt=1,
    )
    monitor: str = setting(
        "accuracy",
        "Validation metric that chooses best.pt: accuracy, loss, uar, macro_f1, or a user's.",
        min_length=1,
    )
    monitor_mode: Literal["auto", "max", "min"] = setting(
        "auto",
        "Whether more or less of the --monitor metric is better; auto = by the name: losses, errors and the usual scores.",
    )
    patience: int = setting(
        0, "Stop after this many epochs without gain; 0 = never.", unit="epochs", ge=0
    )
    min_delta: float = setting(
        0.0, "Least gain that counts for --patience and for the schedule plateau.", ge=0
    )
    tta: Literal["none", "flip", "shift10", "shift18"] = setting(
        "shift10",
        "Views averaged in the final scores of val and test, and by evaluate and predict: flip = the face and its mirror image; "
        "shift10 = the face and four shifted ones, each mirrored too; shift18 = eight shifted ones.",
        structural=True,
    )
    calibrate: Literal["val", "robust"] = setting(
        "val",
        "Faces on which the temperature of the probabilities is fitted at the end: val, or val under the corruptions of evaluate "
        "--robustness too (1,000 of its faces; takes a minute or more).",
    )
    score_test: bool = setting(True, "Score test at the end of the run.")
    seed: int = setting(
        0,
        "Seed of weights, order, augmentation and dropout.",
        structural=True,
        ge=0,
        lt=2**32,  # numpy's global generator takes no larger one
    )
    deterministic: bool = setting(
        False, "Deterministic kernels on GPUs; CPU runs always are.", structural=True
    )
    max_time: Seconds | None = setting(
        None, "Stop in good order after this long, e.g. 90s, 15m, 1h30m.", unit="s, m, h", gt=0
    )
    nonfinite_patience: int = setting(
        10,
        "Optimizer steps in a row with a non-finite loss or gradients before the run fails.",
        ge=1,
    )
    fast_dev_run: bool = setting(
        False,
        "One epoch of three batches of train and val, whatever --epochs says, to see that everything works; no test.",
    )
    handlers: Names = setting(
        (),
        "module:function or ./file.py:function(session) that attaches handlers; repeatable.",
        repeat=True,
    )

    @model_validator(mode="after")
    def _shortened(self) -> "TrainingSettings":
        if self.fast_dev_run:
            self.__dict__.update(epochs=1, score_test=False)  # frozen for everybody else
        return self

    @model_validator(mode="after")
    def _training_fits(self) -> "TrainingSettings":
        if self.batch_size % self.grad_accum_steps:
            raise ValueError(
                f"grad_accum_steps: {self.grad_accum_steps} does not divide batch_size {self.batch_size}; "
                "choose a divisor, --batch-size counts images per optimizer step"
            )
        if self.swa_start is not None and self.model_ema:
            raise ValueError(
                "swa_start: the evaluation can use one average of the weights; leave out swa_start or model_ema"
            )
        return self

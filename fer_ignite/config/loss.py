"""Settings of the loss, class weights and distillation."""

from fer_ignite.config.fields import Names, SettingsGroup, setting

__all__ = ["LossSettings"]


class LossSettings(SettingsGroup):
    """Group Loss of the configuration; a field is a flag, its description the help text."""

    loss: str = setting(
        "ce",
        "ce, focal, soft, bce, a weighted sum such as ce+0.5*focal, or module:function.",
        structural=True,
    )
    smoothing: float = setting(0.1, "Label smoothing.", structural=True, ge=0, lt=1)
    focal_gamma: float = setting(
        2.0, "Focusing parameter of the focal loss.", structural=True, ge=0, le=10
    )
    class_weights: str = setting(
        "none", "none, balanced, effective, or a csv or json file: name, weight.", structural=True
    )
    logit_adjustment: float = setting(
        0.0,
        "Adds this times the log of each class's share of train to the logits in the loss: 1 = trained for the mean of the recalls "
        "(UAR), 0 = for the accuracy.",
        structural=True,
        ge=0,
        le=10,
    )
    teacher: Names = setting(
        (),
        "Distillation: checkpoints or runs' folders whose averaged probabilities are a second target, comma separated.",
        structural=True,
        repeat=True,
    )
    distill_weight: float = setting(
        0.5,
        "Share of the teacher's term in the loss; the labels have the rest.",
        structural=True,
        gt=0,
        le=1,
    )
    distill_temperature: float = setting(
        2.0, "Softens the teacher's and the network's distributions.", structural=True, ge=1, le=100
    )

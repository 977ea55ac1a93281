"""Progressive resizing: the side of the train images as a function of the share of the run's images seen so far."""

from dataclasses import dataclass

from fer_ignite.data.sampler import EpochSampler, MicroBatch

__all__ = ["ImageSizeSchedule"]


@dataclass(frozen=True)
class ImageSizeSchedule:
    """Sides of the train images over a run.

    A side is a function of the batch's number alone, so a resumed run and one with more processes have the same. It counts
    images, not steps: another batch size changes the side at the same image. It changes between optimizer steps only.

    Args:
        steps: ``(side in px, share of the run at which it ends)``, as :func:`fer_ignite.config.parse_image_sizes` reads them.
        epochs: of the whole run.
    """

    steps: tuple[tuple[int, float], ...]
    epochs: int

    def side_px(self, plan: EpochSampler, micro: MicroBatch) -> int:
        """The side of a micro-batch's images."""
        seen = micro.epoch * plan.faces_per_epoch + micro.step * plan.batch_size
        share = seen / (self.epochs * plan.faces_per_epoch)
        return next((side for side, until in self.steps if share < until), self.steps[-1][0])

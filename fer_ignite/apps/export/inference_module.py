"""Module of an export: preprocessing, test-time views, network and softmax."""

# Dimensions: V views, B images, H W pixels, C channels, K expressions.

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fer_ignite.data.augment.tta import views
from fer_ignite.inference.metadata import ExportMetadata

__all__ = ["InferenceModule"]


class InferenceModule(nn.Module):
    """Preparation, network, views and temperature in one module whose graph can be exported.

    Args:
        network: gives logits_BK of normalised images_BCHW; in evaluation mode, on the CPU, fp32.
    """

    scale_C11: Tensor
    offset_C11: Tensor

    def __init__(self, network: nn.Module, record: ExportMetadata) -> None:
        super().__init__()
        self.network = network
        self.tta, self.temperature = record.tta, record.temperature
        fields = record.preprocessing
        self.resize_px, self.image_px = int(fields["resize_px"]), int(fields["image_px"])
        # float64 until both constants are computed, so that each is rounded once.
        mean_C11, std_C11 = (
            torch.tensor(fields[name], dtype=torch.float64).view(-1, 1, 1)
            for name in ("mean", "std")
        )
        # x / 255 comes first, as in training; scale and offset are those of normalise in data/augment/color.py.
        self.register_buffer("scale_C11", (1 / std_C11).float())
        self.register_buffer("offset_C11", (-mean_C11 / std_C11).float())

    def forward(self, faces_BHWC: Tensor) -> Tensor:
        """float32 probabilities_BK of uint8 faces, square (others are squashed), of any side."""
        stack = views(self.prepare(faces_BHWC), self.tta)
        # All views in one batch: the graph holds the network once.
        logits_VBK = self.network(stack.flatten(0, 1)).unflatten(0, (stack.shape[0], -1))
        if stack.shape[0] == 1:
            return (logits_VBK[0] / self.temperature).softmax(dim=-1)
        # The arithmetic of tta_logits: the mean of probabilities, not of logits, with the same bound for the logarithm.
        scores_BK = logits_VBK.softmax(dim=-1).mean(dim=0).clamp_min(1e-12).log()
        return (scores_BK / self.temperature).softmax(dim=-1)

    def prepare(self, faces_BHWC: Tensor) -> Tensor:
        """Normalised images_BCHW: resized, the middle cut out, scaled."""
        # float before the resize: interpolate rounds to whole gray levels where the input is uint8.
        images_BCHW = self.resize(faces_BHWC.permute(0, 3, 1, 2).float())
        # halves go to the even pixel, as in resize_center_crop
        start = round((self.resize_px - self.image_px) / 2)
        end = start + self.image_px
        images_BCHW = images_BCHW[:, :, start:end, start:end] / 255.0
        return images_BCHW * self.scale_C11 + self.offset_C11

    def resize(self, images_BCHW: Tensor) -> Tensor:
        """To ``resize_px``, bilinear and antialiased."""
        return F.interpolate(
            images_BCHW, size=(self.resize_px,) * 2, mode="bilinear", antialias=True
        )

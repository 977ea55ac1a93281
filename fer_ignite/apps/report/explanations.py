"""Grad-CAM overlays of single images, mean maps per class, and the deletion test."""

# Dimensions: B faces, H W pixels, C channels, K expressions.

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fer_ignite.apps.report.evaluation import ReportData
from fer_ignite.apps.report.gallery import calibrated_probabilities
from fer_ignite.apps.report.grad_cam import Layer, attention_maps, find_layer, mask_brightest
from fer_ignite.apps.report.thumbnails import load_pixels, overlay_uri
from fer_ignite.data.fetchers import IndexBatch, in_channels
from fer_ignite.data.sampler import generator
from fer_ignite.errors import ConfigError

__all__ = ["GradCam", "build_explainer"]

FACES_PER_CLASS = 64
EXAMPLES_PER_CLASS = 4
HIDDEN_SHARE = 0.2
_TESTED_FACES = 256
_BATCH = 32


@dataclass(frozen=True)
class GradCam:
    """Grad-CAM for the images of one evaluation."""

    data: ReportData
    layer: Layer

    def overlays(self, rows: Sequence[int], targets: Sequence[int]) -> list[str]:
        """A picture for each row: its face under the map of a class."""
        faces_BHWC = load_pixels(self.data.dataset, [int(self.data.places_N[row]) for row in rows])
        maps_BHW = self.maps(rows, targets)
        return [
            overlay_uri(face, map_HW.numpy())
            for face, map_HW in zip(faces_BHWC, maps_BHW, strict=True)
        ]

    def maps(self, rows: Sequence[int], targets: Sequence[int]) -> Tensor:
        """float32 [B, H, W]; see :func:`attention_maps`."""
        # The empty part is for no rows: torch.cat refuses an empty list.
        wanted_B, at, parts = torch.tensor(targets, dtype=torch.int64), 0, [torch.zeros(0, 1, 1)]
        for images_BCHW in self.images(rows):
            part_B = wanted_B[at : at + len(images_BCHW)].to(images_BCHW.device)
            parts.append(
                attention_maps(
                    self.data.network.model, images_BCHW, targets_B=part_B, layer=self.layer
                )
            )
            at += len(images_BCHW)
        return torch.cat(parts[1:] or parts)

    def images(self, rows: Sequence[int]) -> Iterator[Tensor]:
        """The rows' faces as the network takes them, in small batches."""
        return prepared(self.data, rows)

    def expressions(self) -> list[dict[str, Any]]:
        """For each expression that was recognised: mean picture over up to 64 faces, and the surest ones."""
        probabilities_NK, labels_N = calibrated_probabilities(self.data), self.data.labels_N
        confidence_N, predicted_N = probabilities_NK.amax(dim=1), self.data.logits_NK.argmax(dim=1)
        found = []
        for k, name in enumerate(self.data.network.classes):
            right = torch.nonzero((predicted_N == k) & (labels_N == k))[:, 0]
            rows = right[confidence_N[right].argsort(descending=True, stable=True)][
                :FACES_PER_CLASS
            ].tolist()
            if not rows:
                continue
            mean_HW = self.maps(rows, [k] * len(rows)).mean(dim=0)
            faces_BHWC = load_pixels(
                self.data.dataset, [int(self.data.places_N[row]) for row in rows]
            )
            mean_face = np.rint(faces_BHWC.astype(np.float32).mean(axis=0)).astype(np.uint8)
            examples = rows[:EXAMPLES_PER_CLASS]
            found.append(
                {
                    "name": name,
                    "count": len(rows),
                    # Scaled again: each map's largest value is 1, the mean's is lower, and the colours of
                    # all expressions should span the same range.
                    "mean": overlay_uri(
                        mean_face, (mean_HW / mean_HW.max().clamp_min(1e-12)).numpy()
                    ),
                    "examples": self.overlays(examples, [k] * len(examples)),
                }
            )
        return found

    def deletion_test(self) -> dict[str, Any]:
        """How much confidence falls when the brightest fifth is hidden, and when another face's fifth is.

        The other face's map is the control: it hides as much, in shapes as smooth, and mostly inside of the face.

        Returns:
            ``count, share, own, other``: the two mean falls in probability, over faces drawn from the split; ``other`` is NaN
            where there is a single face.
        """
        # Drawn over the whole split: folders list their faces class by class.
        drawn = generator(0, "limit").permutation(len(self.data.labels_N))[:_TESTED_FACES]
        rows, model = [int(row) for row in drawn], self.data.network.model
        with torch.inference_mode():
            probabilities_NK = torch.cat([model(part).softmax(dim=1) for part in self.images(rows)])
        top_N = probabilities_NK.argmax(dim=1)
        maps_NHW = self.maps(rows, top_N.tolist())

        def mean_fall(maps_NHW: Tensor) -> float:
            hidden, at = [], 0
            with torch.inference_mode():
                for images_BCHW in self.images(rows):
                    maps_BHW = maps_NHW[at : at + len(images_BCHW)]
                    masked_BCHW = mask_brightest(images_BCHW, maps_BHW, share=HIDDEN_SHARE)
                    hidden.append(model(masked_BCHW).softmax(dim=1))
                    at += len(images_BCHW)
            falls_NK = probabilities_NK - torch.cat(hidden)
            return float(falls_NK.gather(1, top_N[:, None]).mean())

        # Rolled over all faces, not within a batch, whose last one may hold a single face.
        other = mean_fall(maps_NHW.roll(1, dims=0)) if len(rows) > 1 else math.nan
        own = mean_fall(maps_NHW)
        return {"count": len(rows), "share": HIDDEN_SHARE, "own": own, "other": other}


def build_explainer(data: ReportData) -> GradCam | str:
    """Grad-CAM for an evaluation, or why this network can't be explained, as a sentence."""
    if data.network.members:
        # the gradient would reach the members through one mean, and a map belongs to one of them
        return "Grad-CAM explains one network, not an ensemble; write the report of one of its checkpoints."
    try:
        return GradCam(data, find_layer(data.network.model, next(prepared(data, [0]))))
    except ConfigError as error:
        return str(error)


def prepared(data: ReportData, rows: Sequence[int]) -> Iterator[Tensor]:
    """Faces as the network takes them: float32 [B, C, H, W], normalised, in batches of up to 32."""
    network = data.network
    fetcher = data.dataset.fetcher(network.device, seed=0, collate_fn=data.collate_fn)
    places = [
        data.places_N[np.array(rows[at : at + _BATCH], dtype=np.int64)]
        for at in range(0, len(rows), _BATCH)
    ]
    for images in fetcher.batches(
        IndexBatch(places_B, 0, 0, np.arange(len(places_B))) for places_B in places
    ):
        # Floats are the finished tensors of a user's data set; stored pixels may have other channels
        # than the network takes.
        if not images.is_floating_point():
            images = in_channels(images, network.preprocessing.channels)
        yield network.preprocessing.plain(images, channels_last=network.config.channels_last)

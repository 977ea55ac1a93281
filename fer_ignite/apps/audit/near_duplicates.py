"""Near-duplicate search: candidates by nearest neighbours of an embedding, verified by image registration.

1. Embedding: a band-passed 24 x 24 image inside a circle, so that brightness, contrast and black corners of rotated copies
   do not count, projected by linear discriminant analysis: directions that differ between images and stay the same
   under small rotations, zooms and shifts. The augmentations are drawn here; no labels are needed.
2. Candidates: each image in several views (rotated, zoomed, mirrored) against all others; the nearest ones are kept.
3. Verification: each candidate is aligned by a similarity transform (Gauss-Newton, inverse compositional), and the
   normalised cross-correlation of the aligned 48 x 48 images decides.
"""

# Dimensions: N images, B images of a batch, S S a square image, V pixels inside the circle, E embedding, P pairs, R rows.

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fer_ignite.training.precision import resolve_precision

__all__ = ["LEAST_SIMILAR", "MOST_SIMILAR", "SIDE_PX", "NearPairs", "near_pairs"]

SIDE_PX = 48  # side of the images that are compared
# Bounds of the correlation after alignment from which a pair counts; measured in docs/audit.md.
LEAST_SIMILAR, MOST_SIMILAR = 0.80, 0.97
_SMALL_PX = SIDE_PX // 2
_EMBEDDING = 48
_NEIGHBOURS = 8  # candidates of an image
# Cosine similarity of embeddings below which a candidate is not aligned: 99 % of planted copies of FER2013 lie above. In
# small sets the embedding rests on few images, and aligning every candidate costs little.
_ALIGNED_FROM = 0.80
_SMALL_SET = 2000
_THRESHOLD_SAMPLE = 512  # images that the threshold is chosen from
_SAMPLE = 3000  # images that the projection is computed from
_RIDGE = 0.02
_STEPS = 4  # of Gauss-Newton
_LEAST = (
    0.5  # correlation of the aligned 24 x 24 images below which the 48 x 48 images are not compared
)
_LEAST_OVERLAP = 0.6  # share of the circle that both aligned images must cover
_PIECE, _ROWS, _COLUMNS = 2048, 512, 2048
_SEED = 0

# Degrees, zoom, mirrored, shift right and down in half sides. Rotations by 10 degrees and corners of a 10 % crop lie within
# reach of one of these. Both images of a pair are viewed, so a zoom below 1 is not needed.
_VIEWS = [
    *(
        (degrees, 1.0, mirrored, 0.0, 0.0)
        for mirrored in (False, True)
        for degrees in (-6.0, 0.0, 6.0)
    ),
    *(
        (0.0, 1.11, mirrored, right, down)
        for mirrored in (False, True)
        for right in (-0.06, 0.06)
        for down in (-0.06, 0.06)
    ),
]


class NearPairs(NamedTuple):
    """Pairs of near copies, each once.

    Attributes:
        pairs_P2: int64, the lower index first.
        mirrored_P: bool, similar only when one of the two is mirrored.
        similarity_P: float32, normalised cross-correlation after alignment, at most 1.
    """

    pairs_P2: NDArray[np.int64]
    mirrored_P: NDArray[np.bool_]
    similarity_P: NDArray[np.float32]


@torch.inference_mode()
def near_pairs(images_NSS: NDArray[np.uint8]) -> NearPairs:
    """Finds near copies among images that are all different and not blank.

    The correlation from which a pair counts is chosen by how alike different images are in this set.

    Args:
        images_NSS: uint8 [N, 48, 48], gray.
    """
    if len(images_NSS) < 2:
        return NearPairs(np.zeros((0, 2), np.int64), np.zeros(0, np.bool_), np.zeros(0, np.float32))
    images_NSS = np.ascontiguousarray(images_NSS)
    search = _NeighbourSearch(images_NSS)
    least = search.threshold()
    query_C, other_C, view_C = search.candidates(
        least=_ALIGNED_FROM if len(images_NSS) > _SMALL_SET else -1.0
    )
    similarity_C = _verified_in_pieces(images_NSS, query_C, other_P=other_C, view_P=view_C)
    kept = similarity_C >= least
    mirrored_V = torch.tensor([view[2] for view in _VIEWS])
    return _in_order(
        query_C[kept],
        other_C[kept],
        mirrored_P=mirrored_V[view_C[kept]],
        similarity_P=similarity_C[kept],
    )


def _in_order(
    query_P: Tensor, other_P: Tensor, *, mirrored_P: Tensor, similarity_P: Tensor
) -> NearPairs:
    """The pairs in order, the lower index first."""
    pairs_P2 = torch.stack(
        [torch.minimum(query_P, other_P), torch.maximum(query_P, other_P)], dim=1
    ).numpy()
    order = np.lexsort((pairs_P2[:, 1], pairs_P2[:, 0]))
    return NearPairs(pairs_P2[order], mirrored_P.numpy()[order], similarity_P.numpy()[order])


def _each_pair_once(query_C: Tensor, other_C: Tensor, *, like_C: Tensor) -> NDArray[np.int64]:
    """Places of the more similar direction of each unordered pair."""
    low_C, high_C = torch.minimum(query_C, other_C).numpy(), torch.maximum(query_C, other_C).numpy()
    order = np.lexsort((-like_C.numpy(), high_C, low_C))
    first = np.ones(len(order), dtype=np.bool_)
    first[1:] = (np.diff(low_C[order]) != 0) | (np.diff(high_C[order]) != 0)
    return order[first].astype(np.int64)


class _NeighbourSearch:
    """Nearest neighbours of images in several views, by the cosine similarity of their embeddings."""

    def __init__(self, images_NSS: NDArray[np.uint8]) -> None:
        self.images_NSS = images_NSS
        self.project = _Projection(images_NSS)
        pieces = [
            self.project(_small(images_NSS[at : at + _PIECE]))
            for at in range(0, len(images_NSS), _PIECE)
        ]
        self.embedding_NE = torch.cat(pieces)
        self.neighbours = min(_NEIGHBOURS, len(images_NSS) - 1)
        # bfloat16 halves the time of the products where the processor has it; it only chooses the neighbours.
        self.dtype = (
            torch.bfloat16
            if resolve_precision("auto", torch.device("cpu")) == "bf16"
            else torch.float32
        )

    def nearest(self, rows_R: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Other images int64 [R, k], cosine similarity float32 [R, k] and the view of the row int64 [R, k]."""
        small_B1SS = _small(self.images_NSS[rows_R.numpy()])
        viewed_VRE = torch.stack(
            [self.project(_warp(small_B1SS, _matrix(view))) for view in _VIEWS]
        )
        viewed = viewed_VRE.to(self.dtype)
        best_RN = torch.empty(len(rows_R), len(self.images_NSS))
        # blocks that stay in the processor's cache
        for column in range(0, len(self.images_NSS), _COLUMNS):
            block_ER = self.embedding_NE[column : column + _COLUMNS].to(self.dtype).T
            best = viewed[0] @ block_ER
            for viewed_RE in viewed[1:]:
                # In place: the products of all views at once would take 14 times the memory.
                torch.maximum(best, viewed_RE @ block_ER, out=best)
            best_RN[:, column : column + _COLUMNS] = best
        best_RN[torch.arange(len(rows_R)), rows_R] = -2  # not itself
        other_RK = best_RN.topk(self.neighbours, dim=1).indices
        like_RK, view_RK = torch.einsum(
            "vre,rke->vrk", viewed_VRE, self.embedding_NE[other_RK]
        ).max(dim=0)
        return other_RK, like_RK, view_RK

    def candidates(self, *, least: float) -> tuple[Tensor, Tensor, Tensor]:
        """int64 [C] each: query image, other image, and the view of the query in which the two are most similar.

        Args:
            least: cosine similarity from which a pair is a candidate. Each pair comes once, in its more similar direction.
        """
        rows = torch.arange(len(self.images_NSS)).split(_ROWS)
        parts = [
            (rows_R[:, None].expand(-1, self.neighbours), *self.nearest(rows_R)) for rows_R in rows
        ]
        query_C, other_C, like_C, view_C = (
            torch.cat([part.reshape(-1) for part in column]) for column in zip(*parts, strict=True)
        )
        near = torch.nonzero(like_C >= least)[:, 0]
        kept = near[
            torch.from_numpy(_each_pair_once(query_C[near], other_C[near], like_C=like_C[near]))
        ]
        return query_C[kept], other_C[kept], view_C[kept]

    def threshold(self) -> float:
        """Correlation from which a pair counts in this set of images.

        Strangers correlate at 0.6 in a few hundred photographs, at 0.78 in FER2013, at 0.93 among drawn faces: the upper
        quartile, over a sample, of the correlation with an image's second most similar neighbour, as the most similar one
        may be a copy. The threshold lies halfway between that and 1.
        """
        random = torch.Generator().manual_seed(_SEED)
        rows_R = torch.randperm(len(self.images_NSS), generator=random)[:_THRESHOLD_SAMPLE]
        other_RK, _, view_RK = self.nearest(rows_R)
        query_RK = rows_R[:, None].expand_as(other_RK)
        similarity_C = _verified_in_pieces(
            self.images_NSS,
            query_RK.reshape(-1),
            other_P=other_RK.reshape(-1),
            view_P=view_RK.reshape(-1),
        )
        second_R = (
            similarity_C.reshape(other_RK.shape)
            .sort(dim=1, descending=True)
            .values[:, min(1, self.neighbours - 1)]
        )
        strangers = float(second_R.quantile(0.75)) if self.neighbours > 1 else 0.0
        return min(max(LEAST_SIMILAR, (1 + strangers) / 2), MOST_SIMILAR)


class _Projection:
    """Linear discriminant analysis of randomly rotated, zoomed and shifted images; an instance embeds images.

    Source: Fisher's criterion with every image as a class of its own; its variants are the members.
    """

    def __init__(self, images_NSS: NDArray[np.uint8]) -> None:
        random = torch.Generator().manual_seed(_SEED)
        sample = torch.randperm(len(images_NSS), generator=random)[:_SAMPLE].sort().values.numpy()
        small_B1SS = _small(images_NSS[sample])
        plain_BV = _normalised(small_B1SS)
        # At least 200 differences, also of a few images: the matrix below has a row per pixel of the circle.
        repeats = max(3, 200 // len(sample))
        moved = torch.cat(
            [
                _normalised(_warp(small_B1SS, _random_matrices(len(sample), random))) - plain_BV
                for _ in range(repeats)
            ]
        )
        # float64: by float32's rounding the matrix can lose its positive definiteness, which cholesky needs.
        within_VV = (moved.T @ moved).double() / len(moved)
        # The last term keeps the matrix positive definite where no image changes.
        within_VV += torch.eye(len(within_VV)) * within_VV.trace() / len(
            within_VV
        ) * _RIDGE + 1e-9 * torch.eye(len(within_VV))
        # a few images have no meaningful mean
        self.mean_V = plain_BV.mean(dim=0) * (len(sample) / (len(sample) + 100))
        centred_BV = (plain_BV - self.mean_V).double()
        whitening_VV = torch.linalg.inv(torch.linalg.cholesky(within_VV))
        between_VV = whitening_VV @ (centred_BV.T @ centred_BV / len(sample)) @ whitening_VV.T
        directions_VV = torch.linalg.eigh(between_VV).eigenvectors
        # The last ones: eigh returns the eigenvalues in ascending order.
        self.projection_VE = (directions_VV[:, -_EMBEDDING:].T @ whitening_VV).T.float()

    def __call__(self, small_B1SS: Tensor) -> Tensor:
        """Float32 [B, E], rows of length 1."""
        return F.normalize((_normalised(small_B1SS) - self.mean_V) @ self.projection_VE, eps=1e-6)


def _random_matrices(count: int, random: torch.Generator) -> Tensor:
    draw_B4 = torch.rand(count, 4, generator=random) * 2 - 1
    angle_B, zoom_B = torch.deg2rad(draw_B4[:, 0] * 8), 1 + draw_B4[:, 1] * 0.1
    cos_B, sin_B, shift_B2 = angle_B.cos() / zoom_B, angle_B.sin() / zoom_B, draw_B4[:, 2:] * 0.12
    return torch.stack(
        [cos_B, sin_B, shift_B2[:, 0], -sin_B, cos_B, shift_B2[:, 1]], dim=1
    ).reshape(count, 2, 3)


def _matrix(view: tuple[float, float, bool, float, float]) -> Tensor:
    """Float32 [2, 3] for ``affine_grid``: from places in the view to places in the image."""
    degrees, zoom, mirrored, right, down = view
    cos, sin = math.cos(math.radians(degrees)) / zoom, math.sin(math.radians(degrees)) / zoom
    sign = -1.0 if mirrored else 1.0
    return torch.tensor([[sign * cos, sin, right], [-sign * sin, cos, down]])


def _warp(images_B1SS: Tensor, matrix: Tensor) -> Tensor:
    """Each image under its matrix [B, 2, 3], or all under one [2, 3]; bilinear, the border continued."""
    grid_BSS2 = F.affine_grid(
        matrix.expand(len(images_B1SS), 2, 3), list(images_B1SS.shape), align_corners=False
    )
    # Not zeros: black corners are edges, which all rotated images would have in common.
    return F.grid_sample(images_B1SS, grid_BSS2, padding_mode="border", align_corners=False)


def _small(images_BSS: NDArray[np.uint8]) -> Tensor:
    return F.avg_pool2d(torch.from_numpy(images_BSS).float()[:, None], SIDE_PX // _SMALL_PX)


def _radius(side: int) -> Tensor:
    at = (torch.arange(side) + 0.5) / side * 2 - 1
    return (at[:, None].square() + at.square()).sqrt()


_CIRCLE_SMALL = _radius(_SMALL_PX) < 0.92
_CIRCLE = _radius(SIDE_PX) < 0.92


def _band(images_B1SS: Tensor) -> Tensor:
    """Difference of two blurs: no brightness, no shading, no noise of single pixels."""
    scale = images_B1SS.shape[-1] / _SMALL_PX
    return _blur(images_B1SS, (1.2 if scale == 1 else 0.6) * scale) - _blur(images_B1SS, 6.0)


def _blur(images_B1SS: Tensor, sigma: float) -> Tensor:
    """Gaussian as two products with one matrix, edges continued."""
    side = images_B1SS.shape[-1]
    at = torch.arange(-side, 2 * side)
    weight_SL = torch.exp(
        -(at[None, :] - torch.arange(side)[:, None]).float().square() / (2 * sigma**2)
    )
    weight_SS = torch.zeros(side, side).index_add_(1, at.clamp(0, side - 1), weight_SL)
    weight_SS /= weight_SS.sum(dim=1, keepdim=True)
    return weight_SS @ images_B1SS @ weight_SS.T


def _normalised(small_B1SS: Tensor) -> Tensor:
    """Float32 [B, V]: the pixels inside the circle with mean 0 and length 1."""
    return _unit(_band(small_B1SS)[:, 0][:, _CIRCLE_SMALL])


def _unit(values_BV: Tensor) -> Tensor:
    return F.normalize(values_BV - values_BV.mean(dim=1, keepdim=True), eps=1e-6)


def _verified_in_pieces(
    images_NSS: NDArray[np.uint8], query_P: Tensor, *, other_P: Tensor, view_P: Tensor
) -> Tensor:
    pieces = (
        torch.arange(at, min(at + _PIECE, len(query_P))) for at in range(0, len(query_P), _PIECE)
    )
    parts = [
        _verified(images_NSS, query_P[piece], other_P=other_P[piece], view_P=view_P[piece])
        for piece in pieces
    ]
    return torch.cat(parts) if parts else torch.zeros(0)


def _verified(
    images_NSS: NDArray[np.uint8], query_P: Tensor, *, other_P: Tensor, view_P: Tensor
) -> Tensor:
    """Float32 [P]: correlation of each aligned pair at 48 x 48 pixels; -1 where 24 x 24 pixels already differ."""
    query_PSS, other_PSS = images_NSS[query_P.numpy()], images_NSS[other_P.numpy()]
    matrix_P23, coarse_P = _aligned(
        _band(_small(query_PSS)),
        _band(_small(other_PSS)),
        matrix_P23=torch.stack([_matrix(view) for view in _VIEWS])[view_P],
    )
    similarity_P = torch.full((len(query_P),), -1.0)
    near = torch.nonzero(coarse_P > _LEAST)[:, 0]
    if len(near):
        query, other = (
            torch.from_numpy(part[near.numpy()]).float()[:, None] for part in (query_PSS, other_PSS)
        )
        similarity_P[near] = _correlation(_band(query), _band(other), matrix_P23=matrix_P23[near])
    return similarity_P


def _aligned(
    query_P1SS: Tensor, other_P1SS: Tensor, *, matrix_P23: Tensor
) -> tuple[Tensor, Tensor]:
    """Matrices [P, 2, 3] under which the query is most like the other, and the correlation there.

    Source: Baker and Matthews, "Lucas-Kanade 20 years on", IJCV 2004: the inverse compositional algorithm, for the four
        parameters of a similarity transform. Steps that make a pair less alike are not taken back; the best one is kept.
    """
    target_PV = _unit(other_P1SS[:, 0][:, _CIRCLE_SMALL])
    slope_P4V = _slopes(other_P1SS)
    hessian_P44 = slope_P4V @ slope_P4V.mT
    # Damped: images whose edges all run in one direction have a singular matrix.
    hessian_P44 += 1e-3 * hessian_P44.diagonal(dim1=1, dim2=2).mean(dim=1)[
        :, None, None
    ] * torch.eye(4) + 1e-9 * torch.eye(4)
    inverse_P44 = torch.linalg.inv(hessian_P44)
    best_P, best_P23 = torch.full((len(target_PV),), -1.0), matrix_P23
    # One look more than steps: the last step's result is judged too.
    for step in range(_STEPS + 1):
        moved_PV = _unit(_warp(query_P1SS, matrix_P23)[:, 0][:, _CIRCLE_SMALL])
        like_P = (moved_PV * target_PV).sum(dim=1)
        better = like_P > best_P
        best_P, best_P23 = (
            torch.where(better, like_P, best_P),
            torch.where(better[:, None, None], matrix_P23, best_P23),
        )
        if step < _STEPS:
            # Bounded: the linear model holds near the solution only.
            change_P4 = (inverse_P44 @ (slope_P4V @ (moved_PV - target_PV)[:, :, None]))[
                :, :, 0
            ].clamp(-0.15, 0.15)
            matrix_P23 = _composed(matrix_P23, change_P4)
    return best_P23, best_P


def _slopes(other_P1SS: Tensor) -> Tensor:
    """Float32 [P, 4, V]: derivative of the normalised image by zoom, rotation, shift right and shift down."""
    image_PSS = other_P1SS[:, 0]
    down_PSS, right_PSS = torch.gradient(image_PSS, spacing=2 / _SMALL_PX, dim=(1, 2))
    at = (torch.arange(_SMALL_PX) + 0.5) / _SMALL_PX * 2 - 1
    x, y = at[None, :], at[:, None]
    parts = (right_PSS * x + down_PSS * y, down_PSS * x - right_PSS * y, right_PSS, down_PSS)
    slope_P4V = torch.stack(parts, dim=1)[:, :, _CIRCLE_SMALL]
    length_P = (
        (image_PSS[:, _CIRCLE_SMALL] - image_PSS[:, _CIRCLE_SMALL].mean(dim=1, keepdim=True))
        .norm(dim=1)
        .clamp(min=1e-6)
    )
    slope_P4V = slope_P4V / length_P[:, None, None]
    return slope_P4V - slope_P4V.mean(dim=2, keepdim=True)


def _composed(matrix_P23: Tensor, change_P4: Tensor) -> Tensor:
    """The matrix after the inverse of a small similarity transform (zoom, rotation, right, down)."""
    zoom_P, turn_P, right_P, down_P = (1 + change_P4[:, 0], *change_P4[:, 1:].unbind(1))
    norm_P = zoom_P.square() + turn_P.square()
    inverse_P22 = (
        torch.stack([zoom_P, turn_P, -turn_P, zoom_P], dim=1).reshape(-1, 2, 2)
        / norm_P[:, None, None]
    )
    shift_P2 = -(inverse_P22 @ torch.stack([right_P, down_P], dim=1)[:, :, None])
    linear_P22 = matrix_P23[:, :, :2]
    return torch.cat(
        [linear_P22 @ inverse_P22, linear_P22 @ shift_P2 + matrix_P23[:, :, 2:]], dim=2
    )


def _correlation(query_P1SS: Tensor, other_P1SS: Tensor, *, matrix_P23: Tensor) -> Tensor:
    """Float32 [P]: normalised cross-correlation where the circle and the warped query overlap; -1 for little overlap."""
    grid_PSS2 = F.affine_grid(matrix_P23, list(query_P1SS.shape), align_corners=False)
    warped_PSS = F.grid_sample(query_P1SS, grid_PSS2, padding_mode="border", align_corners=False)[
        :, 0
    ]
    # Only pixels that the warped image has; the continued border belongs to neither.
    inside_PV = (grid_PSS2.abs().amax(dim=3) <= 1)[:, _CIRCLE].float()
    size_P1 = inside_PV.sum(dim=1, keepdim=True).clamp(min=1)
    one_PV, two_PV = warped_PSS[:, _CIRCLE], other_P1SS[:, 0][:, _CIRCLE]
    one_PV = (one_PV - (one_PV * inside_PV).sum(dim=1, keepdim=True) / size_P1) * inside_PV
    two_PV = (two_PV - (two_PV * inside_PV).sum(dim=1, keepdim=True) / size_P1) * inside_PV
    similarity_P = (F.normalize(one_PV, eps=1e-6) * F.normalize(two_PV, eps=1e-6)).sum(dim=1)
    return torch.where(
        size_P1[:, 0] >= _LEAST_OVERLAP * int(_CIRCLE.sum()), similarity_P, torch.tensor(-1.0)
    )

"""K-means by gradient: relaxed assignments of points to learned centers."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from sklearn.cluster import kmeans_plusplus
from torch import Tensor, nn

from nas.layers.base import check, sample_or_softmax
from nas.relaxations.base import Tau, at_least_float32, one_hot


class Clustering(NamedTuple):
    """Points in clusters.

    Attributes:
        assignments: (..., K), rows on the simplex; one-hot in eval mode.
        reconstruction: (..., D), the centers weighted by the assignments.
        squared_distances: (..., K), to every center, in squared units of the features.
    """

    assignments: Tensor
    reconstruction: Tensor
    squared_distances: Tensor

    @property
    def distortion(self) -> Tensor:
        """The expected squared distance of each point to its center, (...). For hard assignments, its sum over points is the inertia."""
        return (self.assignments * self.squared_distances).sum(-1)


class SoftKMeans(nn.Module):
    """Assigns points to K learned centers. The loss ``layer(points).distortion.mean()`` trains centers and, through the points, a network.

    The logits of a point are ``-beta`` times its squared distances to the centers. In training inside a supernet, assignments are drawn by
    :func:`nas.sample`. In training elsewhere, they are ``softmax(logits / tau)``. In eval mode, each point belongs to the nearest center;
    in a tie, to the first of these. As tau approaches 0, one gradient step of ``1 / (2 * cluster size)`` on the summed distortion is one
    step of Lloyd's algorithm.

    A network that is trained by the distortion alone maps all points to one: give it another loss as well. A forward pass needs memory for
    N * K * D numbers.

    Args:
        num_clusters: K, at least 1.
        num_features: D, at least 1.
        beta: Inverse squared distance at which a center becomes improbable, above 0. The inverse of the variance of a cluster is natural.
        tau: Temperature outside of a supernet, above 0. It may be set at any time.

    Attributes:
        centers: (K, D), trained; standard normal until :meth:`initialize` or training moves them.
        beta: 0-d buffer.

    Shape:
        - points: (..., D)
        - assignments, squared_distances: (..., K), float32 (float64 for float64 points or centers)
        - reconstruction: (..., D), of the dtype of the points

    Raises:
        ValueError: An argument is out of range, the points have another size, or, on a CPU, squared distances are not finite.

    Source: Lloyd 1982, "Least squares quantization in PCM"; Rose 1998, "Deterministic annealing for clustering".
    """

    beta: Tensor

    def __init__(self, num_clusters: int, num_features: int, beta: float = 1.0, tau: Tau = 1.0) -> None:
        super().__init__()
        for name, value in (("num_clusters", num_clusters), ("num_features", num_features)):
            if value < 1:
                raise ValueError(f"SoftKMeans: {name} must be at least 1, got {value}")
        if not (math.isfinite(beta) and beta > 0):
            raise ValueError(f"SoftKMeans: beta must be a finite number above 0, got {beta}")
        self.centers = nn.Parameter(torch.randn(num_clusters, num_features))
        self.register_buffer("beta", torch.tensor(float(beta)))
        self.tau = tau

    def forward(self, points: Tensor) -> Clustering:
        """Assigns points; see the class for shapes."""
        centers = at_least_float32(self.centers)
        self._check_size(points)
        distances = (at_least_float32(points)[..., None, :] - centers).square().sum(-1)
        check(
            distances.isfinite(),
            "SoftKMeans: points or centers hold NaN, or squared distances overflow; scale the features",
        )
        nearest = distances.detach().min(-1, keepdim=True)
        if (
            self.training
        ):  # the nearest center has logit 0: large equal distances would leave no digits for their differences
            assignments = sample_or_softmax(-self.beta * (distances - nearest.values), self.tau)
        else:
            assignments = one_hot(nearest.indices, distances)
        return Clustering(assignments, (assignments.to(distances) @ centers.to(distances)).to(points.dtype), distances)

    @torch.no_grad()
    def initialize(self, points: Tensor, generator: torch.Generator | None = None) -> None:
        """Moves the centers to points that are far apart (greedy k-means++ of scikit-learn).

        Args:
            points: Points, or features of a network.
            generator: Source of the choice, on the CPU; None: torch's global generator.

        Shape:
            - points: (..., D)

        Raises:
            ValueError: The points have another size, hold NaN or infinity, or are fewer than K distinct ones.

        Source: Arthur and Vassilvitskii 2007, "k-means++: The Advantages of Careful Seeding".
        """
        self._check_size(points)
        check(points.cpu().isfinite(), "SoftKMeans: points hold NaN or infinity")
        flat, num_clusters = at_least_float32(points).reshape(-1, points.shape[-1]), len(self.centers)
        num_distinct = len(flat.unique(dim=0))
        if num_distinct < num_clusters:
            raise ValueError(f"SoftKMeans: {num_clusters} clusters need as many distinct points, got {num_distinct}")
        seed = int(torch.randint(2**31, (), generator=generator))
        chosen = kmeans_plusplus(flat.cpu().numpy(), num_clusters, random_state=seed)[1]
        self.centers.copy_(flat[torch.from_numpy(chosen).to(flat.device)])

    def _check_size(self, points: Tensor) -> None:
        if points.dim() < 1 or points.shape[-1] != self.centers.shape[1]:
            raise ValueError(
                f"SoftKMeans: points must have shape (..., {self.centers.shape[1]}), got {tuple(points.shape)}"
            )

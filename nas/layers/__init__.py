"""Layers that draw relaxed samples of logits that they compute from their input."""

from nas.layers.routed import Routed as Routed
from nas.layers.routed import balance_losses as balance_losses
"""Layers that draw from their input: clusters, orders, paths."""

from nas.layers.shortest_path import Path, ShortestPath, grid_edges
from nas.layers.soft_kmeans import Clustering, SoftKMeans
from nas.layers.soft_sort import SoftSort, permute, place_scores

__all__ = [
    "Clustering",
    "Path",
    "ShortestPath",
    "SoftKMeans",
    "SoftSort",
    "grid_edges",
    "permute",
    "place_scores",
]

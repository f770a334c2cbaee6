"""Layers that draw relaxed samples of logits that they compute from their input: experts, clusters, orders, paths."""

from nas.layers.routed import Routed, balance_losses
from nas.layers.shortest_path import Path, ShortestPath, grid_edges
from nas.layers.soft_kmeans import Clustering, SoftKMeans
from nas.layers.soft_sort import SoftSort, permute, place_scores

__all__ = [
    "Clustering",
    "Path",
    "Routed",
    "ShortestPath",
    "SoftKMeans",
    "SoftSort",
    "balance_losses",
    "grid_edges",
    "permute",
    "place_scores",
]

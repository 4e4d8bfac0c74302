"""The deep adaptive graph: landmarks as the vertices of a graph that evolves from the mean shape to where they lie.

Li et al.: Structured Landmark Detection via Topology-Adapting Deep Graph Learning, 2020 (arXiv:2004.08190); here as
Zhou et al. (2021, section 2.1) have it, whose global GCN gives an affine map.

A CNN's feature map is sampled at the vertices. A global GCN moves all of them by one affine map, then local GCNs in a
row displace each one. No code was published; ours: every GCN has weights and edges of its own and starts at 0, so that
an untrained graph gives the mean shape, and gradients do not flow through the places at which features are sampled.
Vertices are shares (u, v) of a square image's sides.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def sampled(features: Tensor, vertices: Tensor) -> Tensor:
    """(B, C, h, w) at vertices (B, N, 2), shares of the sides along h and w -> (B, N, C), bilinear."""
    grid = (2 * vertices - 1).flip(-1)[:, :, None]
    return F.grid_sample(features, grid.to(features.dtype), padding_mode="border", align_corners=False)[..., 0].mT


def shape_features(vertices: Tensor) -> Tensor:
    """(B, N, 2) -> (B, N, 2 N): from each vertex to all of them."""
    return (vertices[:, None] - vertices[:, :, None]).flatten(2)


class GraphConvolution(nn.Module):
    """f' = W1 f + E W2 f: (B, N, inputs) -> (B, N, outputs), edges E (N, N)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.own, self.others = nn.Linear(inputs, outputs), nn.Linear(inputs, outputs, bias=False)

    def forward(self, vertices: Tensor, edges: Tensor) -> Tensor:
        return self.own(vertices) + edges @ self.others(vertices)


class GCN(nn.Module):
    """Graph convolutions over N vertices with learnt edges: one in, two residual ones, one out that starts at 0."""

    def __init__(self, points: int, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.edges = nn.Parameter(torch.full((points, points), 1.0 / points))
        self.first = GraphConvolution(inputs, width)
        self.middle = nn.ModuleList(GraphConvolution(width, width) for _ in range(2))
        self.last = GraphConvolution(width, outputs)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, vertices: Tensor) -> Tensor:
        vertices = F.relu(self.first(vertices, self.edges))
        for layer in self.middle:
            vertices = vertices + F.relu(layer(vertices, self.edges))
        return self.last(vertices, self.edges)


@dataclass
class Evolution:
    """What a DAG gives: the CNN's map (B, C, h, w), the vertices (B, N, 2) after the global and the last local GCN."""

    features: Tensor
    placed: Tensor
    local: Tensor


class DAG(nn.Module):
    """The deep adaptive graph. Images (B, 1, size, size) -> Evolution.

    Args:
        cnn: gives the feature map of images, (B, features, h, w).
        features: its channels.
        mean_shape: (N, 2).
        width: channels of the graph convolutions.
        iterations: local GCNs in a row.
    """

    mean_shape: Tensor

    def __init__(self, cnn: nn.Module, features: int, mean_shape: Tensor, width: int, iterations: int) -> None:
        super().__init__()
        points = len(mean_shape)
        self.register_buffer("mean_shape", mean_shape.clone())
        self.cnn = cnn
        inputs = features + 2 * points
        self.global_gcn = GCN(points, inputs, width, 6)
        self.local_gcns = nn.ModuleList(GCN(points, inputs, width, 2) for _ in range(iterations))

    def forward(self, images: Tensor) -> Evolution:
        features = self.cnn(images).float()
        with torch.autocast(images.device.type, enabled=False):  # half precision would be too coarse for positions
            return self._evolved(features)

    def _evolved(self, features: Tensor) -> Evolution:
        start = self.mean_shape.expand(len(features), -1, -1)
        placed = affine(start, self.global_gcn(_signal(features, start)).mean(dim=1))
        local = placed
        for gcn in self.local_gcns:
            local = local + gcn(_signal(features, local.detach()))
        return Evolution(features, placed, local)


def affine(shape: Tensor, numbers: Tensor) -> Tensor:
    """The shape (B, N, 2) under I + A about its centre, and moved by b: six numbers (B, 6) for A and b."""
    centre = shape.mean(dim=1, keepdim=True)
    change, shift = numbers[:, :4].unflatten(1, (2, 2)), numbers[:, None, 4:]
    return shape + (shape - centre) @ change.mT + shift


def _signal(features: Tensor, vertices: Tensor) -> Tensor:
    """What a GCN is given of each vertex: the map where it lies, and where all others lie from it."""
    return torch.cat((sampled(features, vertices), shape_features(vertices)), dim=-1)

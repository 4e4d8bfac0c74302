"""The deep adaptive graph: what a vertex sees and knows, how the graph evolves, that all of it learns."""

from __future__ import annotations

import torch
from torch import nn

from medgen.nn.dag import DAG, GraphConvolution, affine, sampled, shape_features


def a_graph(shape: torch.Tensor) -> DAG:
    return DAG(nn.Conv2d(1, 8, 4, stride=4), 8, shape, width=16, iterations=3)


def test_features_are_sampled_where_the_vertices_lie() -> None:
    i, j = torch.meshgrid(torch.arange(8.0), torch.arange(6.0), indexing="ij")
    ramp = torch.stack([i, j])[None]
    vertices = torch.tensor([[[0.5, 0.25], [0.3, 0.9]]])
    expected = vertices * torch.tensor([8.0, 6.0]) - 0.5  # sides to pixels
    torch.testing.assert_close(sampled(ramp, vertices), expected)


def test_a_vertex_knows_where_the_others_lie() -> None:
    vertices = torch.tensor([[[0.0, 0.0], [1.0, 2.0], [5.0, 5.0]]])
    assert shape_features(vertices)[0, 1].tolist() == [-1, -2, 0, 0, 4, 3]


def test_a_graph_convolution_adds_what_the_edges_bring() -> None:
    layer, edges, vertices = GraphConvolution(4, 3), torch.randn(5, 5), torch.randn(2, 5, 4)
    found = layer(vertices, edges)
    one = sum(edges[2, other] * layer.others(vertices[1, other]) for other in range(5))
    torch.testing.assert_close(found[1, 2], layer.own(vertices[1, 2]) + one)


def test_an_untrained_network_gives_the_mean_shape() -> None:
    shape = torch.rand(3, 2)
    found = a_graph(shape).eval()(torch.randn(2, 1, 32, 32))
    torch.testing.assert_close(found.local, shape.expand(2, -1, -1))
    torch.testing.assert_close(found.placed, shape.expand(2, -1, -1))


def test_the_global_gcn_moves_the_shape_by_one_affine_map() -> None:
    shape = torch.rand(2, 6, 2)
    numbers = torch.randn(2, 6)
    moved = affine(shape, numbers)
    for before, after, six in zip(shape, moved, numbers, strict=True):
        centre = before.mean(0)
        matrix = torch.eye(2) + six[:4].reshape(2, 2)
        torch.testing.assert_close(after, (before - centre) @ matrix.T + centre + six[4:])


def test_every_weight_of_the_network_learns() -> None:
    torch.manual_seed(0)
    network = a_graph(torch.rand(3, 2))
    for gcn in (network.global_gcn, *network.local_gcns):
        torch.nn.init.normal_(gcn.last.own.weight)  # nothing flows through weights of 0
        torch.nn.init.normal_(gcn.last.others.weight)
    found = network(torch.randn(2, 1, 32, 32))
    (found.placed.square().sum() + found.local.square().sum()).backward()
    still = [name for name, one in network.named_parameters() if one.grad is None or not one.grad.any()]
    assert still == []

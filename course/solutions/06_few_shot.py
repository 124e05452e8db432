"""Solutions to lesson 6. A function whose parameters all have defaults returns the answer; any other is the answer."""

import torch


def pictures(ways, shots, query):
    return ways * (shots + query)


def nearest_mean(support_x, support_y, query_x):
    means = torch.stack([support_x[support_y == j].mean(0) for j in support_y.unique()])
    return torch.cdist(query_x, means).argmin(1)


def interval(accuracies):
    return 1.96 * accuracies.std() / len(accuracies) ** 0.5

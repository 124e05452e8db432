"""Solutions to lesson 4. A function whose parameters all have defaults returns the answer; any other is the answer."""


def share_hurt(before, after):
    return 1 - (after <= before).double().mean()  # nan <= x is false: a diverged client counts as hurt


def crossover(levels, lead, enough):
    if lead[0] >= enough:
        return levels[0]
    for i in range(1, len(levels)):
        if lead[i] >= enough:
            way = (enough - lead[i - 1]) / (lead[i] - lead[i - 1])
            return levels[i - 1] + way * (levels[i] - levels[i - 1])
    return None


def best_without_adapting(ways):
    """Whatever the picture, every label is right at the same share of the clients."""
    return 1 / ways

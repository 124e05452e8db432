"""Solutions to lesson 10. A function whose parameters all have defaults returns the answer; any other is the answer."""


def next_in_turn(turn, here, m):
    return [c for c in turn if c in here][:m]


def lost_control(kept, lost):
    """Of the mean over all N, the part that those had who lost it."""
    return kept[lost].sum(0) / len(kept)

"""Solutions to lesson 0. A function whose parameters all have defaults returns the answer; any other is the answer."""


def trivial_loss():
    """The square of the amplitude, times the mean of sin^2."""
    return 2.55**2 / 2

"""Solutions to lesson 8. A function whose parameters all have defaults returns the answer; any other is the answer."""


def picture_from_gradient(dw, db):
    """Every column of dw is the picture times an entry of db; this is the least squares of all."""
    return dw @ db / (db @ db)


def noise_in_all(z, releases):
    """As many independent looks at one client are one look with less noise."""
    return z / releases**0.5


def trimmed_mean(messages, left_out):
    ranked = messages.sort(0).values
    return ranked[left_out : len(ranked) - left_out].mean(0)

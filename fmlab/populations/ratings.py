"""How will a user rate a film? (a new user with the first few of his ratings; Chen et al. 2018, 1802.07876, recommend.)

``root``: a folder with MovieLens' ``ratings.csv`` and ``movies.csv`` (ml-latest-small: 610 users with 20 or more
ratings each; https://grouplens.org/datasets/movielens). Its terms exclude commercial use, so it does not ship with
fmlab. Without a folder, users are drawn from a latent factor model (Koren, Bell and Volinsky 2009, Computer 42:30) of
the same form:

    r_ui = 3.5 + b_u + (taste + p_u)' g_i + q_i + e,  in [0.5, 5], to the half star
    b_u ~ N(0, 0.4),  p_u, taste ~ N(0, 0.35 I),  q_i ~ N(0, 0.3),  e ~ N(0, 0.8),  N(mean, standard deviation)

over 500 films i with one to four of 19 genres g_i, and 300 users with 20 to 120 ratings of films of their choice.

A client is a user, an example a rating: x = the film's genres, 19 flags, and its year; y = the stars, both
standardised. In time, a user's ratings go from the first to the last: he is scored on those that follow the first
``shots``.

Limits: which film it is is not an input, so what makes one better than its genre is noise here; what is left is
mostly how kind a user is (b_u), and his genres.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fmlab.declare import choice, hyper
from fmlab.populations.base import Labels
from fmlab.populations.collection import Collection, DataError, Rows
from fmlab.randomness import normal, shuffled, uniform

GENRES = (
    "Action", "Adventure", "Animation", "Children", "Comedy", "Crime", "Documentary", "Drama", "Fantasy", "Film-Noir",
    "Horror", "IMAX", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
FILMS, USERS, FEWEST, MOST = 500, 300, 20, 120


@dataclass(frozen=True, kw_only=True)
class Ratings(Collection):
    source: Any = field(default=None, init=False, repr=False)
    root: str | Path | None = None
    shots: int = hyper(10, symbol="n_S", low=1, high=1000, whole=True, text="ratings a user's model adapts on, at most")
    most: int = hyper(100, symbol="n", low=2, high=10**6, whole=True, text="ratings of a user that are used, at most")
    standardise: bool = choice(True, (False, True), "inputs and targets in units of the training clients' spread")

    def read(self) -> tuple[Rows, list[str]]:
        return _drawn() if self.root is None else _movielens(str(self.root)), []

    def labels(self) -> Labels:
        return Labels(y="stars (standardised)")


def _rows(who: Tensor, genres: Tensor, year: Tensor, stars: Tensor, time: Tensor, names: list[str]) -> Rows:
    """Of ratings (n,) of users 0, 1, ..., client by client."""
    order = who.argsort(stable=True)
    x = torch.cat([genres, year[:, None]], 1)[order]
    plain = torch.arange(x.shape[1]) < len(GENRES)
    counts, columns = who.bincount(), (*GENRES, "year")
    return Rows(x, stars[order, None], counts, tuple(names), columns, plain=plain, time=time[order])


@lru_cache(maxsize=1)
def _drawn() -> Rows:
    kinds, key = len(GENRES), "ratings"
    number = 1 + (4 * uniform((FILMS,), 0.0, 1.0, key, "genres")).long()
    rank = uniform((FILMS, kinds), 0.0, 1.0, key, "which genres").argsort(1).argsort(1)
    genres = (rank < number[:, None]).double()
    year = (1930 + 90 * uniform((FILMS,), 0.0, 1.0, key, "year").sqrt()).floor()
    kindness, tastes = 0.4 * normal((USERS,), key, "kindness"), 0.35 * normal((USERS, kinds), key, "tastes")
    common, quality = 0.35 * normal((kinds,), key, "taste"), 0.3 * normal((FILMS,), key, "quality")
    counts = (FEWEST + (MOST - FEWEST + 1) * uniform((USERS,), 0.0, 1.0, key, "how many") ** 2).long()
    film = torch.cat([shuffled(FILMS, key, "films", u)[:n] for u, n in enumerate(counts.tolist())])
    who = torch.arange(USERS).repeat_interleave(counts)
    liked = 3.5 + kindness[who] + ((common + tastes[who]) * genres[film]).sum(1) + quality[film]
    stars = ((liked + 0.8 * normal((len(film),), key, "errors")) * 2).round().clamp(1, 10) / 2
    return _rows(who, genres[film], year[film], stars, torch.arange(len(film)), [f"user {u + 1}" for u in range(USERS)])


@lru_cache(maxsize=2)
def _movielens(root: str) -> Rows:
    import pandas as pd

    films, ratings = (_table(Path(root) / name, columns) for name, columns in COLUMNS.items())
    films = films.drop_duplicates("movieId").set_index("movieId")
    lost = ~ratings.movieId.isin(films.index)
    ratings = ratings[~lost]
    often = ratings.userId.map(ratings.userId.value_counts()) >= 2
    ratings = ratings[often].sort_values(["userId", "timestamp"], kind="stable")
    if ratings.userId.nunique() < 3:
        raise DataError(f"{root}: {ratings.userId.nunique()} users with two or more ratings; three are the least")
    titles = films.title.astype(str).str.extract(r"\((\d{4})\)\s*$")[0].astype(float)
    flags = films.genres.astype(str).str.get_dummies("|").reindex(columns=list(GENRES), fill_value=0)
    film = films.index.get_indexer(ratings.movieId)
    who, users = pd.factorize(ratings.userId)
    names = [f"user {u}" for u in users]
    when = np.unique(ratings.timestamp.to_numpy(), return_inverse=True)[1]
    return _rows(
        torch.from_numpy(who),
        torch.tensor(flags.to_numpy(dtype=float)[film]),
        torch.tensor(titles.to_numpy()[film]),
        torch.tensor(ratings.rating.to_numpy(dtype=float)),
        torch.from_numpy(when),
        names,
    )


COLUMNS = {
    "movies.csv": ("movieId", "title", "genres"),
    "ratings.csv": ("userId", "movieId", "rating", "timestamp"),
}


def _table(path: Path, columns: tuple[str, ...]) -> Any:
    import pandas as pd

    if not path.is_file():
        raise DataError(f"{path} is not there; give the folder of MovieLens' CSV files, for example ml-latest-small")
    try:
        frame = pd.read_csv(path)
    except (ValueError, OSError) as problem:  # pandas' errors are ValueErrors
        raise DataError(f"{path} is no table: {problem}") from problem
    if gone := [c for c in columns if c not in frame.columns]:
        raise DataError(f"{path} has no column {gone[0]!r}; it is not MovieLens' {path.name}")
    for name in set(columns) - {"title", "genres"}:
        numbers = pd.to_numeric(frame[name], errors="coerce")
        if not np.isfinite(numbers).all():
            raise DataError(f"{path}: column {name!r} holds {frame[name][~np.isfinite(numbers)].iloc[0]!r}, no number")
        frame[name] = numbers
    return frame[list(columns)]

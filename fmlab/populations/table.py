"""Your own data: a table in which one column names the client, and one or more are the target.

    clients = fm.Table("visits.csv", client="hospital", target="outcome", time="admitted")
    study = fm.compare([fm.FedAvg(), fm.FedMAML()], clients)

What becomes of its columns is in ``table_files``; how clients are split, what heterogeneity moves and what is
standardised, with whose numbers, in ``collection``. Which columns and which texts there are is read off the whole
table, as its form; whatever is a number of a value is read off training clients.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

from torch import Tensor

from fmlab.declare import choice
from fmlab.populations import table_files as files
from fmlab.populations.base import Labels
from fmlab.populations.collection import Collection, DataError, Decided, Rows


@dataclass(frozen=True)
class Table(Collection):
    """Each row an example, each client its rows.

    Args:
        source: a data frame, a CSV or Parquet file, or a folder of them: with ``client`` None one file a client, which
            its name names. It is read once; afterwards the field holds what was read.
        client: the column that names the client.
        target: the column to predict, or several of numbers.
        features: the columns to predict from; None takes all others.
        categories: of the features, those that hold categories although they look like numbers.
        time: a column of numbers or dates: a client's support set comes before its query set. None: random order.
        task: "regression", "classification", or "auto": texts, truth values and up to 20 different whole numbers are
            classes, other numbers are not.
        missing: texts that stand for a missing value, beside the usual ones.

    What is left out, or read in one of several ways, is said by one warning (``Decided``).

    Raises DataError (a ValueError) for whatever cannot be read, with the way out.
    """

    _: KW_ONLY
    client: str | None = None
    target: str | Sequence[str]
    features: Sequence[str] | None = None
    categories: Sequence[str] = ()
    time: str | None = None
    task: str = choice("auto", ("auto", "regression", "classification"), "what the target is")
    missing: Sequence[str] = ()
    standardise: bool = choice(True, (False, True), "inputs and targets in units of the training clients' spread")

    def check_options(self) -> None:
        for name in ("target", "features", "categories", "missing"):
            object.__setattr__(self, name, _names(name, getattr(self, name)))
        if not self.target:
            raise DataError("target = () names no column to predict")
        if isinstance(self.source, Rows) and self.source.read != self._options:
            raise DataError("what a table was read with cannot be changed afterwards; make it anew with fm.Table(...)")

    def read(self) -> tuple[Rows, list[str]]:
        return files.read(self.source, self._options)

    def more(self, rows: Any, target: bool = False) -> tuple[Tensor, Tensor | None]:
        """Rows that the table does not hold, a frame or a file with the same columns: x (n, d), NaN where missing, and
        with ``target`` y (n, o), or classes (n,) as int64. ``Study.predict`` takes such rows. Raises DataError."""
        x, y, said = files.more(rows, self.rows, self._options, target)
        if said:
            warnings.warn(f"fm.Table: {'; '.join(said)}", Decided, stacklevel=2)
        return x, y

    def labels(self) -> Labels:
        found = super().labels()
        return found._replace(y=found.y.replace("output y", ", ".join(self.target)))

    @property
    def _options(self) -> files.Options:
        return files.Options(*(getattr(self, name) for name in files.Options._fields))


def _names(field: str, value: Any) -> tuple[str, ...] | None:
    if value is None and field == "features":
        return None
    given = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, (list, tuple)) else None
    if given is None or not all(isinstance(v, str) for v in given):
        raise DataError(f"{field} = {value!r} is no name of a column, nor a list of names")
    return given

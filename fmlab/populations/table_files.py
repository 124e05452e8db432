"""Tables from frames and files, checked: everything is read before anything is kept, and what was decided is said.

A CSV file (also ``.tsv``, ``.txt``) is UTF-8, UTF-16 with its mark, or else Windows-1252, which is said; its separator
is the one of , ; tab | that its first line has most of. Empty cells, NA, NaN, null and the like are missing values.
A Parquet file needs pyarrow (the extra ``parquet``). A folder holds one such file a client, named after it, or files
that all have the client's column.

Columns become numbers: truth values and two-valued flags 0 and 1, dates days since 1970-01-01, texts one column of 0
and 1 for each of them (missing is a text of its own). A column of numbers with missing values gets one beside it that
says where. A column of which half or more are numbers and some are texts is an error.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from fmlab.populations.collection import DataError, Rows

TEXTS = (".csv", ".tsv", ".txt")
CATEGORIES = 100  # different texts of a column beyond which it is none of categories
FEW_CLASSES = 20  # different whole numbers of a target up to which they are classes
NAMED = 5  # clients, files and texts that a message lists


class Options(NamedTuple):
    """What of a table's fields says how it is read."""

    client: str | None
    target: tuple[str, ...]
    features: tuple[str, ...] | None
    categories: tuple[str, ...]
    time: str | None
    task: str
    missing: tuple[str, ...]


class Form(NamedTuple):
    """How one column became inputs: its kind, the texts that have a column of 0 and 1, and whether one marks missing
    values."""

    name: str
    kind: str
    texts: tuple[str, ...]
    missing: bool


@dataclass
class Said:
    """What has been decided so far, a sentence each."""

    where: str
    sentences: list[str] = field(default_factory=list)

    def __call__(self, sentence: str) -> None:
        self.sentences.append(sentence)

    def error(self, problem: str) -> DataError:
        return DataError(f"{self.where}: {problem}")


def read(source: Any, options: Options) -> tuple[Rows, list[str]]:
    """All examples of all clients with two or more, and what was decided. Raises DataError."""
    import pandas as pd

    said = Said("the frame" if isinstance(source, pd.DataFrame) else str(source))
    frame, client = _frame(source, options, said)
    columns = _chosen(frame, client, options, said)
    frame, codes, names = _clients(frame, client, options, said)
    for column in (c for c in (*options.target, options.time) if c is not None):
        frame, codes = _complete(frame, codes, column, said)
    frame, codes, names = _two_or_more(frame, codes, names, said)
    order = np.argsort(codes, kind="stable")
    y, classes = _target(frame, options, said)
    time = None if options.time is None else torch.from_numpy(_time(frame[options.time], said)[order])
    x, plain, titles, form = _inputs(frame, columns, options, said, order)
    rows = Rows(
        x,
        torch.from_numpy(y[order]),
        torch.from_numpy(np.bincount(codes, minlength=len(names)).astype(np.int64)),
        names,
        titles,
        classes,
        plain,
        time,
        options,
        form,
    )
    return rows, said.sentences


def numbers(path: Path, target: str, features: tuple[str, ...]) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """One client's file of numbers: inputs (n, d) and target (n,) float64, without the rows that lack any of them, and
    what was decided. Raises DataError."""
    if not path.is_file():
        raise DataError(f"{path} does not exist; give a CSV or Parquet file")
    said = Said(str(path))
    options = Options(None, (target,), features, (), None, "auto", ())
    frame = _checked(_file(path, options, said), options, said)
    columns = {name: _column(frame[name], said) for name in (*features, target)}
    for name, column in columns.items():
        if column.kind == "text":
            raise said.error(f"column {name!r} holds texts; on a node of its own a client's columns are numbers")
    both = np.stack([column.values for column in columns.values()], 1)
    there = np.isfinite(both).all(1)
    if lost := int((~there).sum()):
        said(f"{_count(lost, 'row')} without a number in one of the columns left out")
    kept = torch.from_numpy(both[there])
    return kept[:, :-1].contiguous(), kept[:, -1].contiguous(), said.sentences


def more(source: Any, rows: Rows, options: Options, target: bool) -> tuple[Any, Any, list[str]]:
    """Other rows of the same form: x (n, d) as numbers, NaN where missing, and with ``target`` y (n, o) or classes
    (n,), else None; and what was decided. The client's column and the time are not looked at. Raises DataError."""
    import pandas as pd

    said = Said("the frame" if isinstance(source, pd.DataFrame) else str(source))
    asked = options._replace(
        client=None,
        target=options.target if target else (),
        features=tuple(f.name for f in rows.form),
        categories=tuple(c for c in options.categories if c in {f.name for f in rows.form}),
        time=None,
    )
    if isinstance(source, pd.DataFrame):
        frame = _checked(source.set_axis([str(c) for c in source.columns], axis=1), asked, said)
    elif isinstance(source, (str, Path)) and Path(source).is_file():
        frame = _checked(_file(Path(source), asked, said), asked, said)
    else:
        raise DataError(f"rows = {source!r} is no data frame, nor a file of a table")
    x = np.concatenate([_formed(frame, form, options, said) for form in rows.form], 1)
    return torch.from_numpy(x), _answers(frame, rows, options, said) if target else None, said.sentences


def _formed(frame: Any, form: Form, options: Options, said: Said) -> Any:
    """One column as the inputs (n, .) that it became when the table was read."""
    c = _column(frame[form.name], said, form.kind == "text")
    if form.kind != "text" and c.kind == "text":
        if (c.values >= 0).any():
            raise said.error(f"column {form.name!r} holds texts, and held numbers when the table was read")
        c = Column("number", np.full(len(frame), np.nan))
    if form.kind == "text":
        place = {t: i for i, t in enumerate(form.texts)}
        if strange := [t for t in c.texts if t not in place]:
            said(f"texts of {form.name!r} that the table did not have are none of its columns: {_listed(strange)}")
        x = np.zeros((len(frame), len(form.texts)))
        codes = np.array([*(place.get(t, -1) for t in c.texts), -1])[c.values]
        x[(codes >= 0).nonzero()[0], codes[codes >= 0]] = 1.0
        gone = codes < 0
    else:
        values = np.where(np.isinf(c.values), np.nan, c.values)
        x, gone = values[:, None].astype(np.float64), np.isnan(values)
    return np.concatenate([x, gone[:, None]], 1) if form.missing else x


def _answers(frame: Any, rows: Rows, options: Options, said: Said) -> Any:
    """The targets of these rows, as the table's."""
    for name in options.target:
        if frame[name].isna().any():
            raise said.error(f"column {name!r}, the target, has missing values; leave those rows out")
    columns = [_column(frame[name], said) for name in options.target]
    if not rows.labels:
        if texts := [n for n, c in zip(options.target, columns, strict=True) if c.kind == "text"]:
            raise said.error(f"target {texts[0]!r} holds texts, and held numbers when the table was read")
        return torch.from_numpy(np.stack([np.asarray(c.values, dtype=np.float64) for c in columns], 1))
    (c,) = columns
    given = [c.texts[i] for i in c.values] if c.kind == "text" else [_name(v) for v in c.values.tolist()]
    place = {t: i for i, t in enumerate(rows.classes)}
    if strange := sorted({t for t in given if t not in place}):
        raise said.error(
            f"target {options.target[0]!r} holds {_listed(strange)}; the classes are {_listed(rows.classes)}"
        )
    return torch.tensor([place[t] for t in given])


# --- Files ----------------------------------------------------------------------------------------------------------


def _frame(source: Any, options: Options, said: Said) -> tuple[Any, str]:
    """One frame with text as column names, and the name of the column of clients."""
    import pandas as pd

    if isinstance(source, pd.DataFrame):
        frame = source.set_axis([str(c) for c in source.columns], axis=1)
        return _checked(frame, options, said), _needs_client(options, said)
    if not isinstance(source, (str, Path)):
        raise DataError(f"source = {type(source).__name__} is no data frame, nor a path of a file or a folder")
    path = Path(source)
    if path.is_dir():
        return _folder(path, options, said)
    if not path.is_file():
        raise DataError(f"{path} does not exist; give a CSV or Parquet file, a folder of them, or a data frame")
    return _checked(_file(path, options, said), options, said), _needs_client(options, said)


def _needs_client(options: Options, said: Said) -> str:
    if options.client is None:
        raise said.error("client = None; name the column that says whose example a row is: client='...'")
    return options.client


def _folder(path: Path, options: Options, said: Said) -> tuple[Any, str]:
    import pandas as pd

    every = sorted(f for f in path.iterdir() if f.is_file() and not f.name.startswith("."))
    files = [f for f in every if f.suffix.lower() in (*TEXTS, ".parquet")]
    if not files:
        raise said.error("no CSV or Parquet file in this folder; for LEAF's JSON take fm.Leaf(folder)")
    if left := [f.name for f in every if f not in files]:
        said(f"files of another kind are left out: {_listed(left)}")
    client = options.client
    if client is None:
        client = "client (file)"
        stems = Counter(f.stem.strip().casefold() for f in files)
        if double := [f.name for f in files if stems[f.stem.strip().casefold()] > 1]:
            raise said.error(f"two files name the same client: {_listed(double)}; rename one of them")
    frames: list[Any] = []
    for f in files:
        frame = _checked(_file(f, options, said), options, Said(str(f)))
        if options.client is None:
            if client in frame:
                raise DataError(f"{f}: a column is called {client!r}; rename it")
            frame[client] = f.stem
        if frames and set(frame.columns) != set(frames[0].columns):
            other = sorted(set(frame.columns) ^ set(frames[0].columns))
            raise DataError(f"{f} and {files[0].name} do not have the same columns: {_listed(other)}")
        frames.append(frame)
    return pd.concat(frames, ignore_index=True), client


def _file(path: Path, options: Options, said: Said) -> Any:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet(path)
    if suffix not in TEXTS:
        known = ", ".join((*TEXTS, ".parquet"))
        raise DataError(f"{path} is no table that is read here ({known}); save it as CSV, or give a data frame")
    return _csv(path, options, said)


def _parquet(path: Path) -> Any:
    import pandas as pd

    try:
        return pd.read_parquet(path)
    except ImportError as problem:
        raise DataError(f"{path}: Parquet files need pyarrow; install it with pip install pyarrow") from problem
    except Exception as problem:  # whatever pyarrow raises
        raise DataError(f"{path} is no Parquet file, or a damaged one: {_first_line(problem)}") from problem


def _csv(path: Path, options: Options, said: Said) -> Any:
    import pandas as pd

    encoding = _encoding(path, said)
    with path.open(encoding=encoding, newline="") as f:
        line = f.readline()
        while line and not line.strip():
            line = f.readline()
    if not line:
        raise DataError(f"{path} is empty")
    separator = max(",;\t|", key=line.count)
    header = [name.strip() for name in next(csv.reader([line], delimiter=separator))]
    nameless = [f"(column {i + 1})" for i in range(len(header)) if not header[i]]
    header = [name or f"(column {i + 1})" for i, name in enumerate(header)]
    if double := sorted({name for name in header if header.count(name) > 1}):
        raise DataError(f"{path} has two columns called {double[0]!r}; rename one of them")
    texts = [c for c in (options.client, *options.categories) if c in header]  # 007 is not 7
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                path,
                sep=separator,
                encoding=encoding,
                names=header,
                header=0,
                index_col=False,
                dtype=dict.fromkeys(texts, "str"),
                skipinitialspace=True,
                low_memory=False,
            )
    except (ValueError, pd.errors.ParserWarning, OSError, OverflowError) as problem:  # pandas' errors are ValueErrors
        raise DataError(
            f"{path} is no table: {_first_line(problem)}; every line has the same number of cells"
        ) from problem
    if nameless:  # as frames write their row numbers
        said(f"{_count(len(nameless), 'column')} without a name in {path.name} left out")
    return frame.drop(columns=nameless)


def _encoding(path: Path, said: Said) -> str:
    """Tried on the whole file, so that it does not fail half-way."""
    with path.open("rb") as f:
        start = f.read(4096)
        if start.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):  # the former begins like UTF-16
            raise DataError(f"{path} is UTF-32, which is not read here; save the table as UTF-8")
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            found, strange = "utf-16", False
        else:
            found, strange = "utf-8-sig", b"\0" in start
        if strange:
            raise DataError(f"{path} is no text, whatever its name says; save the table as CSV")
        f.seek(0)
        decoder = codecs.getincrementaldecoder(found)()
        try:
            while part := f.read(2**20):
                decoder.decode(part)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            if found == "utf-16":
                raise DataError(f"{path} is damaged: it starts like UTF-16 and is none") from None
            said(f"{path.name} is not UTF-8 and is read as Windows-1252")
            return "cp1252" if _decodes(path, "cp1252") else "latin-1"
    return found


def _decodes(path: Path, encoding: str) -> bool:
    try:
        path.read_bytes().decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


# --- Rows -----------------------------------------------------------------------------------------------------------


def _checked(frame: Any, options: Options, said: Said) -> Any:
    """The frame, if it has rows and all columns that are named."""
    columns = list(frame.columns)
    if double := sorted({c for c in columns if columns.count(c) > 1}):
        raise said.error(f"two columns are called {double[0]!r}; rename one of them")
    wanted = (options.client, *options.target, *(options.features or ()), *options.categories, options.time)
    for name in (n for n in wanted if n is not None):
        if name not in columns:
            folded = {c.casefold(): c for c in columns}
            near = difflib.get_close_matches(name.casefold(), folded, 1)
            hint = f"; did you mean {folded[near[0]]!r}" if near else ""
            raise said.error(f"no column is called {name!r}{hint}; the columns are {_listed(columns, 20)}")
    if len(frame) == 0:
        raise said.error("there is no row below the names of the columns")
    return _without(frame, options.missing) if options.missing else frame


def _without(frame: Any, marks: Sequence[str]) -> Any:
    """The frame, missing where one of the marks stands, be it a text or a number."""
    numbers = []
    for mark in marks:
        with suppress(ValueError):
            numbers.append(float(mark))
    changed = {}
    for name, values in frame.items():
        kind = values.dtype.kind
        if kind in "iufO":
            changed[name] = values.mask(values.isin([*numbers, *(marks if kind == "O" else ())]))
    return frame.assign(**changed)


def _chosen(frame: Any, client: str, options: Options, said: Said) -> list[str]:
    """The columns that are inputs."""
    if client in options.target:
        raise said.error(f"{client!r} is the client and the target too; an unseen client's could not be learned")
    taken = (client, *options.target, options.time)
    if options.features is None:
        columns = [c for c in frame.columns if c not in taken]
    else:
        columns = list(options.features)
        if both := [c for c in columns if c in (client, *options.target)]:
            raise said.error(f"{both[0]!r} is an input and the client or the target too; take it out of features")
    if not columns:
        raise said.error("no column is left for inputs beside the client, the target and the time")
    if wrong := [c for c in options.categories if c not in columns]:
        raise said.error(f"categories holds {wrong[0]!r}, which is no input")
    return columns


def _clients(frame: Any, client: str, options: Options, said: Said) -> tuple[Any, Any, tuple[str, ...]]:
    """The frame without rows of nobody, which client each row is of, and their names in order."""
    import pandas as pd

    codes, values = pd.factorize(frame[client])
    texts = [_name(v) for v in values]
    if any(not t for t in texts):  # blanks are no name
        codes = np.where(np.isin(codes, [i for i, t in enumerate(texts) if not t]), -1, codes)
    names = tuple(sorted(set(texts) - {""}))
    if len(names) < len([t for t in texts if t]):
        double = sorted({t for t in texts if t and texts.count(t) > 1})
        said(f"clients whose names differ in blanks or in type alone are one: {_listed(double)}")
    place = {name: i for i, name in enumerate(names)}
    renumber = np.array([place.get(t, -1) for t in texts] + [-1])
    codes = renumber[codes]
    keep = codes >= 0
    if lost := int((~keep).sum()):
        said(f"{_count(lost, 'row')} without a client ({client!r}) left out")
    if len(names) < 2:
        only = f"one client, {names[0]!r}" if names else "no client"
        raise said.error(
            f"column {client!r} names {only}; three or more are needed: name the column that tells them apart"
        )
    return (frame[keep], codes[keep], names) if lost else (frame, codes, names)


def _name(value: Any) -> str:
    if isinstance(value, (float, np.floating)) and value.is_integer():
        return str(int(value))  # numbers beside a missing one are floats
    return str(value).strip()


def _complete(frame: Any, codes: Any, column: str, said: Said) -> tuple[Any, Any]:
    """Without the rows whose ``column`` is missing or infinite."""
    values = frame[column]
    gone = values.isna().to_numpy()
    if values.dtype.kind == "f":
        gone = gone | np.isinf(values.to_numpy(dtype=float, na_value=np.nan))
    elif values.dtype.kind == "O":
        gone = gone | (values.astype(str).str.strip() == "").to_numpy(dtype=bool, na_value=True)
    if not gone.any():
        return frame, codes
    if gone.all():
        raise said.error(f"column {column!r} holds nothing that is finite")
    said(f"{_count(int(gone.sum()), 'row')} without a finite {column!r} left out")
    frame, values = frame[~gone], values[~gone]
    if values.dtype.kind == "f" and (values % 1 == 0).all():  # whole numbers beside a missing one are floats
        frame = frame.assign(**{column: values.astype("int64")})
    return frame, codes[~gone]


def _two_or_more(frame: Any, codes: Any, names: tuple[str, ...], said: Said) -> tuple[Any, Any, tuple[str, ...]]:
    counts = np.bincount(codes, minlength=len(names))
    stays = counts >= 2
    if not stays.all():
        lost = [n for n, s, c in zip(names, stays, counts, strict=True) if not s and c]
        empty = len(names) - int(stays.sum()) - len(lost)
        if lost:
            who = _count(len(lost), "client")
            said(f"{who} with one row left out, which cannot adapt and be scored: {_listed(lost)}")
        if empty:
            said(f"{_count(empty, 'client')} without a row left over left out")
        keep = stays[codes]
        frame, codes = frame[keep], (np.cumsum(stays) - 1)[codes[keep]]
        names = tuple(n for n, s in zip(names, stays, strict=True) if s)
    if len(names) < 3:
        raise said.error(
            f"{_count(len(names), 'client')} with two or more rows; three are the least: one to train, one to choose "
            "step sizes on, one unseen"
        )
    return frame, codes, names


# --- Columns --------------------------------------------------------------------------------------------------------


class Column(NamedTuple):
    """kind: number, flag or text. values: float64, NaN where missing, or codes of ``texts``, -1 where missing."""

    kind: str
    values: Any
    texts: tuple[str, ...] = ()


def _column(values: Any, said: Said, category: bool = False) -> Column:
    """One column as numbers."""
    import pandas as pd

    kind, name = values.dtype.kind, values.name
    if isinstance(values.dtype, pd.CategoricalDtype) or category:
        return _texts(values)
    if kind == "b":
        return Column("flag", values.astype("Float64").to_numpy(dtype=float, na_value=np.nan))
    if kind in "iuf":
        return Column("number", values.to_numpy(dtype=float, na_value=np.nan))
    if kind == "M":
        days = (values - pd.Timestamp(0, tz=values.dt.tz)) / pd.Timedelta(days=1)
        said(f"dates of {name!r} are read as days since 1970-01-01")
        return Column("number", days.to_numpy(dtype=float, na_value=np.nan))
    if kind == "m":
        return Column("number", (values / pd.Timedelta(days=1)).to_numpy(dtype=float, na_value=np.nan))
    if not (kind == "O" or isinstance(values.dtype, pd.StringDtype)):
        raise said.error(f"column {name!r} is of {values.dtype}: neither numbers, truth values, texts nor dates")
    return _of_objects(values, said)


def _of_objects(values: Any, said: Said) -> Column:
    import pandas as pd

    name = values.name
    there = values.dropna()
    kinds = (
        {type(v) for v in there} if there.dtype.kind == "O" and not isinstance(there.dtype, pd.StringDtype) else {str}
    )
    if strange := [
        k for k in kinds if not issubclass(k, (str, bool, int, float, np.generic, np.bool_)) and not _is_date(k)
    ]:
        raise said.error(f"column {name!r} holds values of type {strange[0].__name__}; give numbers, texts or dates")
    if kinds and all(issubclass(k, (bool, np.bool_)) for k in kinds):
        return Column("flag", values.astype("boolean").astype("Float64").to_numpy(dtype=float, na_value=np.nan))
    if kinds and all(map(_is_date, kinds)):
        return _column(pd.to_datetime(values), said)
    texts = pd.Series(there.astype(str).str.strip(), index=there.index)
    numbers = pd.to_numeric(texts, errors="coerce")
    wrong = texts[numbers.isna() & (texts != "") & (texts.str.lower() != "nan")]
    if len(there) and len(wrong) == 0:
        return Column("number", numbers.reindex(values.index).to_numpy(dtype=float))
    if len(wrong) * 2 <= len(there):
        found = _listed(wrong.unique().tolist())
        raise said.error(
            f"column {name!r} holds numbers, and {_count(len(wrong), 'text')} among them: {found}; correct them, name "
            f"what stands for a missing value: missing=({wrong.iloc[0]!r},), or take the column as "
            f"categories=({name!r},)"
        )
    if kinds == {str} and (days := _dates(texts)) is not None:
        said(f"dates of {name!r} are read as days since 1970-01-01")
        return Column("number", days.reindex(values.index).to_numpy(dtype=float))
    return _texts(values)


def _is_date(kind: type[Any]) -> bool:
    import datetime

    return issubclass(kind, (datetime.date, np.datetime64))


def _dates(texts: Any) -> Any:
    """Days since 1970-01-01 where every text is a date of ISO 8601, else None."""
    import pandas as pd

    if not texts.head(20).str.match(r"\d{4}-\d\d(-\d\d)?").all():
        return None
    found = pd.to_datetime(texts, format="ISO8601", errors="coerce", utc=True)
    if found.isna().any():
        return None
    return (found - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(days=1)


def _texts(values: Any) -> Column:
    import pandas as pd

    codes, found = pd.factorize(values)
    named = [_name(v) for v in found]
    texts = tuple(sorted(set(named) - {""}))
    place = {t: i for i, t in enumerate(texts)}
    return Column("text", np.array([*(place.get(t, -1) for t in named), -1])[codes], texts)


def _target(frame: Any, options: Options, said: Said) -> tuple[Any, tuple[str, ...]]:
    """(rows, o) numbers, or (rows,) classes and their names."""
    found = [_column(frame[name], said) for name in options.target]
    first, name = found[0], options.target[0]
    task = options.task
    if task == "auto":
        single = len(found) == 1 and (first.kind != "number" or _whole(frame[name], first.values))
        task = "classification" if single else "regression"
    if task == "classification":
        if len(found) > 1:
            raise said.error(f"target = {options.target!r} are several classes; give one column, or task='regression'")
        values = np.asarray(first.values)
        labels, codes = np.unique(values, return_inverse=True)
        names = (
            tuple(first.texts[int(i)] for i in labels) if first.kind == "text" else tuple(map(_name, labels.tolist()))
        )
        if len(names) < 2:
            raise said.error(f"target {name!r} has one class, {names[0]!r}; there is nothing to tell apart")
        return codes.astype(np.int64), names
    if texts := [n for n, c in zip(options.target, found, strict=True) if c.kind == "text"]:
        raise said.error(f"target {texts[0]!r} holds texts, and regression wants numbers; give one target for classes")
    y = np.stack([np.asarray(c.values, dtype=np.float64) for c in found], 1)
    if same := [n for n, column in zip(options.target, y.T, strict=True) if column.min() == column.max()]:
        raise said.error(f"target {same[0]!r} is {float(y[0, options.target.index(same[0])]):g} in every row")
    return y, ()


def _whole(column: Any, values: Any) -> bool:
    """Whether numbers are labels: few different whole ones, of a column of whole numbers."""
    if column.dtype.kind not in "iuO":
        return False
    different = np.unique(values)
    return len(different) <= FEW_CLASSES and bool((different == np.round(different)).all())


def _time(values: Any, said: Said) -> Any:
    """(rows,) int64: the place of each row in time; equal times share one."""
    quiet = Said(said.where)
    found = _column(values, quiet)
    if found.kind != "number":
        raise said.error(f"time = {values.name!r} holds neither numbers nor dates like 2026-11-25")
    return np.unique(found.values, return_inverse=True)[1].astype(np.int64)


def _inputs(frame: Any, columns: Sequence[str], options: Options, said: Said, order: Any) -> Any:
    """x (rows, d) in this order, which of its columns are 0 and 1, their names, and how they came from the table's."""
    kept: list[tuple[str, Column, bool]] = []
    width = 0
    for name in columns:
        c = _column(frame[name], said, name in options.categories)
        if (found := _tidy(name, c, said)) is not None:
            c, missing = found
            kept.append((name, c, missing))
            width += (len(c.texts) if c.kind == "text" else 1) + missing
    if not kept:
        raise said.error("no column is left for inputs")
    x = np.zeros((len(order), width), dtype=np.float64)
    titles: list[str] = []
    plain: list[bool] = []
    at = 0
    for name, c, missing in kept:
        values = c.values[order]
        if c.kind == "text":
            titles += [f"{name} = {t}" for t in c.texts]
            there = values >= 0
            x[there.nonzero()[0], at + values[there]] = 1.0
            gone = ~there
        else:
            titles.append(name)
            gone = np.isnan(values)
            x[:, at] = values
        at = len(titles)
        if missing:
            titles.append(f"{name} missing")
            x[:, at] = gone
            at += 1
        plain += [c.kind != "number"] * (len(titles) - len(plain) - missing) + [True] * missing
    form = tuple(Form(name, c.kind, c.texts, missing) for name, c, missing in kept)
    return torch.from_numpy(x), torch.tensor(plain), tuple(titles), form


def _tidy(name: str, c: Column, said: Said) -> tuple[Column, bool] | None:
    """The column without infinities, and whether values of it are missing; None where it says nothing."""
    if c.kind == "text":
        if len(c.texts) > CATEGORIES:
            said(f"column {name!r} has {len(c.texts)} different texts, more than {CATEGORIES}, and is left out")
            return None
        gone = c.values < 0
    else:
        if infinite := int(np.isinf(c.values).sum()):
            said(f"{_count(infinite, 'infinite value')} of {name!r} taken as missing")
            c = c._replace(values=np.where(np.isinf(c.values), np.nan, c.values))
        gone = np.isnan(c.values)
    if gone.all():
        said(f"column {name!r} holds nothing and is left out")
        return None
    if gone.any():
        said(f"{_count(int(gone.sum()), 'missing value')} of {name!r}, which a column {name + ' missing'!r} marks")
    return c, bool(gone.any())


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


def _listed(items: Sequence[Any], most: int = NAMED) -> str:
    named = ", ".join(repr(i) for i in items[:most])
    return named if len(items) <= most else f"{named} and {len(items) - most} more"


def _first_line(problem: BaseException) -> str:
    lines = str(problem).strip().splitlines()
    return lines[0] if lines else type(problem).__name__

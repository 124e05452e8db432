"""The format studies are saved in: settings as JSON, tensors as ``npz`` without compression or pickle.

    config.json          format, fmlab's version, the methods' names, the setting; name and sha256 of the other file
    tensors-TOKEN.npz    the tensors, and a copy of config.json but for its last entry

Every save has a file of tensors of its own. ``config.json`` is moved into its place last and names it; only then the
one before it is removed. So there is a complete study in the folder at any moment, the old or the new.

Nothing in the files is run, and no module they name is imported. A class stands there by module and qualified name;
fmlab's are known, the reader's own must be named by the reader. What JSON cannot hold (functions, lifted modules) is
left out and noted with what stands beside it and a lifted module's layers, and the reader supplies it, the same. So
are the clients' own data: their sha256 stands in their place.

A study is read only where the copy agrees with ``config.json``, and every tensor has the name, shape and dtype that
follow from the setting, by the headers, before any is read; without compression a small file cannot hold much.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import fields, is_dataclass
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, Self
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor, nn

from fmlab import npy
from fmlab.algorithms import ALGORITHMS
from fmlab.declare import Sweep, Validated
from fmlab.means import MEANS
from fmlab.models import MLP, Lifted
from fmlab.optimisers import OPTIMISERS
from fmlab.populations import NEED_DATA, POPULATIONS, SCENARIOS, Omniglot
from fmlab.populations.collection import Collection, Rows
from fmlab.populations.omniglot_files import OmniglotError
from fmlab.populations.quadratics import Point
from fmlab.secure import SecureSum
from fmlab.transforms import TRANSFORMS

FORMAT = 2
MAX_CONFIG = 2**26  # bytes of config.json
LEFT_OVER = 3600.0  # seconds after which what a killed save left is removed by the next
_TENSORS = re.compile(r"tensors-[0-9a-f]{16}\.npz")
_HEAD = ("format", "fmlab", "methods", "config")  # what of config.json the tensors' file has a copy of
_COPY = "config.json"  # its name there
GIVEN = ("algorithms", "clients", "model", "server", "transforms", "mean")  # what a reader may supply
_ANEW = "fm.compare makes the study anew"

Nested = dict[str, Any]  # of dicts, lists and tensors
Place = tuple[str, ...]  # where a tensor stands among them
Layout = dict[Place, tuple[tuple[int, ...], torch.dtype]]


class StudyError(ValueError):
    """A saved study that cannot be read; the message names the folder, the file, the field, and the way out."""


class MissingFile(StudyError, FileNotFoundError):
    """A file of a saved study is not there."""


class NotJSON(ValueError):
    """A value of a setting that JSON cannot hold."""


def name_of(kind: type[Any]) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


KINDS: tuple[type[Any], ...] = (
    *ALGORITHMS,
    *POPULATIONS,
    *SCENARIOS,
    *NEED_DATA,
    *OPTIMISERS,
    *TRANSFORMS,
    *MEANS,
    SecureSum,
    MLP,
    Point,
)
CLASSES = {name_of(kind): kind for kind in KINDS}


# --- Writing --------------------------------------------------------------------------------------------------------


def write(folder: str | Path, config: dict[str, Any], methods: Iterable[str], tensors: Nested) -> list[str]:
    """Save, over what stands in the folder. Gives what of ``config`` JSON could not hold, to be supplied in reading.

    Raises OSError where the disk does not take it; then the folder holds what it held.
    """
    from fmlab import __version__

    folder, token = Path(folder), secrets.token_hex(8)
    written = {name: _encoded(value) for name, value in config.items()}
    head = {"format": FORMAT, "fmlab": __version__, "methods": [str(name) for name in methods], "config": written}
    folder.mkdir(parents=True, exist_ok=True)
    before = _named_in(folder)
    arrays, made = folder / f"tensors-{token}.npz", folder / f".config-{token}.json"
    try:
        with arrays.open("xb+") as f:
            with zipfile.ZipFile(f, "w") as archive:
                archive.writestr(zipfile.ZipInfo(_COPY), json.dumps(head))
                for path, t in leaves(tensors):
                    npy.write(archive, _key(path), t.detach().cpu().contiguous().numpy())
            _flush(f)
            f.seek(0)
            digest = hashlib.file_digest(f, "sha256").hexdigest()
        with made.open("xb") as f:
            whole = head | {"tensors": {"file": arrays.name, "sha256": digest}}
            f.write((json.dumps(whole, indent=2) + "\n").encode())
            _flush(f)
        _flush_folder(folder)  # the tensors are there before anything names them
        made.replace(folder / "config.json")
    except BaseException:
        for half_written in (arrays, made):
            half_written.unlink(missing_ok=True)
        raise
    _flush_folder(folder)
    _tidy(folder, before, arrays.name)
    return [name for name, value in written.items() if "missing" in _tags(value) or _data(value)]


def _flush(f: IO[bytes]) -> None:
    f.flush()
    os.fsync(f.fileno())


def _flush_folder(folder: Path) -> None:
    with suppress(OSError):  # Windows opens no folders
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _named_in(folder: Path) -> str | None:
    """The file of tensors that the study in the folder has, where there is one."""
    try:
        return str(_manifest(folder)["tensors"]["file"])
    except StudyError:
        return None


def _tidy(folder: Path, before: str | None, now: str) -> None:
    """Remove the tensors of the study that was here, and what killed saves left long ago."""
    for path in (*folder.glob("tensors-*.npz"), *folder.glob(".config-*.json")):
        with suppress(OSError):
            old = path.name == before or path.stat().st_mtime < time.time() - LEFT_OVER
            if path.name != now and old and (_TENSORS.fullmatch(path.name) or path.name.startswith(".config-")):
                path.unlink()


def leaves(nested: Any, path: Place = ()) -> Iterator[tuple[Place, Tensor]]:
    """Every tensor and where it stands."""
    if isinstance(nested, Tensor):
        yield path, nested
        return
    for key, inner in nested.items() if isinstance(nested, dict) else enumerate(nested):
        yield from leaves(inner, (*path, str(key)))


def _key(path: Place) -> str:
    return "/".join(quote(part, safe=" ", errors="surrogatepass") for part in path)  # a name may hold any character


def _encoded(value: Any) -> Any:
    try:
        return encode(value)
    except Exception as problem:  # of a class of one's own it may be any; a finished study is saved nevertheless
        missing = {"missing": str(problem) or type(problem).__name__}
    with suppress(Exception):
        missing["held"] = encode(value, gaps=True)
    return missing


def encode(value: Any, gaps: bool = False) -> Any:
    """As JSON: numbers, strings, None and tuples as they are, all else under a tag. What JSON cannot hold raises
    NotJSON, naming it; with ``gaps`` its name stands in its place, and a lifted module's layers."""
    kind, inner = type(value), partial(encode, gaps=gaps)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, tuple):
        return [inner(v) for v in value]
    if isinstance(value, list):
        return {"list": [inner(v) for v in value]}
    if isinstance(value, dict):
        return {"dict": [[inner(k), inner(v)] for k, v in value.items()]}
    if isinstance(value, Sweep):
        return {"sweep": [inner(v) for v in value.values]}
    if isinstance(value, Validated):
        return {"validated": inner(value.centre)}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if isinstance(value, Path):
        return {"path": str(value)}
    if isinstance(value, Rows):
        return {"sha256": value.sha256, "examples": len(value.y), "clients": len(value.names)}
    if gaps and isinstance(value, Lifted):
        return {"missing": name_of(type(value.module)), "head": value.head_name, "layers": _layers(value.module)}
    if is_dataclass(value) and not isinstance(value, type) and CLASSES.get(name_of(kind), kind) is kind:
        return {
            "class": name_of(kind),
            "fields": {f.name: inner(getattr(value, f.name)) for f in fields(value) if f.init},
        }
    named = value if hasattr(value, "__qualname__") else kind
    missing = f"{getattr(named, '__module__', '')}:{named.__qualname__}"
    if not gaps:
        raise NotJSON(missing)
    return {"missing": missing}


def _layers(module: nn.Module) -> dict[str, str]:
    """Every layer by its name, as it is printed without those inside it and without addresses in memory."""
    return {
        name or "module": re.sub(r" at 0x[0-9a-f]+", "", f"{type(m).__name__}({m.extra_repr()})")
        for name, m in module.named_modules()
    }


# --- Reading --------------------------------------------------------------------------------------------------------


class Reader:
    """A saved study, opened: ``config``, then ``read`` the tensors that follow from it. Raises StudyError."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.by = "config.json"  # what the tensors have to fit

    def __enter__(self) -> Self:
        self.head, self.file = _opened(self.folder)
        with ExitStack() as stack:
            stack.enter_context(self.file)
            self.size = os.fstat(self.file.fileno()).st_size
            with self.blames(self.tensors):
                self.archive = stack.enter_context(zipfile.ZipFile(self.file))
                self._look_around()
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def tensors(self) -> str:
        return str(self.head["tensors"]["file"])

    def error(self, file: str, problem: object) -> StudyError:
        return StudyError(f"{self.folder / file}: {problem}")

    @contextmanager
    def blames(self, file: str) -> Iterator[None]:
        """Whatever goes wrong inside is this file's fault."""
        try:
            yield
        except StudyError:
            raise
        except Exception as problem:
            said = str(problem) if isinstance(problem, (ValueError, TypeError)) else repr(problem)
            raise self.error(file, f"{said}; {_ANEW}") from problem

    def _look_around(self) -> None:
        """The members, without a look into the tensors; and the copy of the settings."""
        infos = self.archive.infolist()
        names = [i.filename for i in infos]
        if len(set(names)) < len(names) or sum(i.file_size for i in infos) > self.size:
            raise ValueError("it holds two tensors of one name, or more than its size")
        for i in infos:
            if i.compress_type != zipfile.ZIP_STORED or i.file_size != i.compress_size or i.flag_bits & 1:
                raise ValueError(f"{i.filename} is compressed or encrypted; study.save writes plain tensors")
        if _COPY not in names:
            raise ValueError(f"{_COPY} is missing in it")
        if self.archive.getinfo(_COPY).file_size > MAX_CONFIG:
            raise ValueError(f"{_COPY} in it has more than {MAX_CONFIG:,} bytes")
        copy = _parsed(self.archive.read(_COPY))
        for where, here, there in _differences({k: self.head[k] for k in _HEAD}, {k: copy[k] for k in _HEAD}):
            raise self.error(
                "config.json",
                f"{where} = {here}, but the study was made with {there}; put that back, or make a study of the other "
                "setting with fm.compare",
            )

    def config(self, classes: Iterable[type[Any]], given: dict[str, Any]) -> dict[str, Any]:
        """The setting, with what the reader supplies in its place. No code is run but of fmlab's and ``classes``."""
        written = self.head["config"]
        if unknown := sorted(set(given) - set(GIVEN)):
            raise TypeError(f"load() got unknown arguments {unknown}; it takes classes and {', '.join(GIVEN)}")
        self.by = " and ".join([self.by, *(f"the given {name}" for name in given)])
        for name, value in given.items():
            self._compare(name, written.get(name), value)
        own = list(classes)
        if wrong := [c for c in own if not isinstance(c, type)]:
            raise TypeError(f"classes holds {wrong[0]!r}, which is not a class")
        left = {name: value for name, value in written.items() if name not in given}
        absent = {n: v["missing"] for n, v in left.items() if "missing" in _tags(v)}
        if absent:
            wanted = ", ".join(f"{n}=..." for n in absent)
            what = ", ".join(f"{n} ({v})" for n, v in absent.items())
            raise self.error("config.json", f"JSON does not hold {what}; give it: fm.load(folder, {wanted})")
        for name, data in ((n, d) for n, v in left.items() for d in _data(v)):
            raise self.error(
                "config.json",
                f"the {data.get('examples')} examples of {data.get('clients')} {name} are not saved with a study; make "
                f"the population of the same data and give it: fm.load(folder, {name}=...)",
            )
        names = sorted({n for v in left.values() for n in _classes(v)})
        known = {n: c for n in names if (c := _find(n, own)) is not None}
        if strange := [n for n in names if n not in known]:
            listed = ", ".join(n.rpartition(":")[2].rpartition(".")[2] for n in strange)
            raise self.error(
                "config.json",
                f"the study holds classes that are not fmlab's: {', '.join(strange)}; no module that a file names is "
                f"imported, so give them: fm.load(folder, classes=[{listed}])",
            )
        with self.blames("config.json"):
            return {name: decode(value, known, name) for name, value in left.items()} | given

    def _compare(self, name: str, written: Any, value: Any) -> None:
        """What is given has to be the same wherever JSON holds what it was: a folder may stand elsewhere."""
        if name == "algorithms" and isinstance(value, list):
            value = {type(a).__name__: a for a in value}
        if name == "transforms" and callable(value):
            value = [value]
        given = _encoded(tuple(value) if isinstance(value, list) else value)
        if any("missing" in _tags(v) and "held" not in v for v in (given, written)):  # or of an older fmlab
            return
        given, written = (v["held"] if "held" in _tags(v) else v for v in (given, written))
        given = _taken(_placeless(given), _placeless(written))
        for where, here, there in _differences(given, _placeless(written), name):
            raise self.error("config.json", f"{where} = {there}, and {here} is given; give {name} as it was")

    def length(self, name: str) -> int:
        """Of a tensor with one axis, by its header."""
        with self.blames(self.tensors):
            shape = self._header((name,)).shape
            if len(shape) != 1:
                raise ValueError(f"{name} has shape {shape}, not one axis")
            return shape[0]

    def _header(self, path: Place) -> npy.Header:
        name = f"{_key(path)}.npy"
        if name not in self.archive.NameToInfo:
            raise ValueError(f"{_key(path)} is missing")
        try:
            found = npy.header(self.archive, _key(path))
        except Exception as problem:
            raise ValueError(f"{_key(path)} is damaged ({problem})") from problem
        if found.end != self.archive.getinfo(name).file_size:
            raise ValueError(f"{_key(path)} says {found.dtype} {found.shape} and has another size")
        return found

    def read(self, expected: Layout) -> Nested:
        """Exactly these tensors, each checked before the first is read."""
        with self.blames(self.tensors):
            for path, (shape, dtype) in expected.items():
                found = self._header(path)
                if (found.shape, found.dtype) != (shape, _numpy(dtype)):
                    raise ValueError(
                        f"{_key(path)} is {found.dtype} {found.shape}; by {self.by} it is {_numpy(dtype)} {shape}"
                    )
            wanted = {f"{_key(path)}.npy" for path in expected} | {_COPY}
            if more := sorted(set(self.archive.namelist()) - wanted):
                raise ValueError(f"{more[0]} has no place in this study, by {self.by}")
            self.file.seek(0)
            digest = hashlib.file_digest(self.file, "sha256").hexdigest()
            if digest != self.head["tensors"]["sha256"]:
                raise ValueError(f"its sha256 is {digest}, not tensors.sha256 of config.json: one of them is damaged")
            nested: Nested = {}
            for path, (shape, dtype) in expected.items():
                inner = nested
                for part in path[:-1]:
                    inner = inner.setdefault(part, {})
                inner[path[-1]] = torch.from_numpy(npy.read(self.archive, _key(path), shape, _numpy(dtype)))
            return nested


def _opened(folder: Path) -> tuple[dict[str, Any], BufferedReader]:
    """config.json and the file of tensors that it names; read again where a save has just replaced both."""
    head = _manifest(folder)
    while True:
        path = folder / head["tensors"]["file"]
        with suppress(FileNotFoundError):
            if path.is_file():
                return head, path.open("rb")
        again = _manifest(folder)
        if again == head:
            raise MissingFile(f"{path} is missing; config.json beside it names it, and study.save(folder) writes both")
        head = again


def _manifest(folder: Path) -> dict[str, Any]:
    """What config.json holds, as far as it can be judged by itself."""
    path = folder / "config.json"
    if not path.is_file():
        raise MissingFile(f"{path} is missing; study.save(folder) writes it")
    with path.open("rb") as f:
        text = f.read(MAX_CONFIG + 1)
    try:
        if len(text) > MAX_CONFIG:
            raise ValueError(f"it has more than {MAX_CONFIG:,} bytes")
        head = _parsed(text)
        named = head.get("tensors")
        strings = isinstance(named, dict) and all(isinstance(named.get(k), str) for k in ("file", "sha256"))
        if not strings or not _TENSORS.fullmatch(named["file"]):  # type: ignore[index]
            raise ValueError(f"tensors = {_short(named)} is not the name and sha256 of a file beside it")
        return head
    except Exception as problem:
        raise StudyError(f"{path}: {problem}; {_ANEW}") from problem


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        head = json.loads(text.decode())
    except (ValueError, RecursionError) as problem:
        raise ValueError(f"it is no JSON in UTF-8 ({problem})") from problem
    if not isinstance(head, dict) or "format" not in head:
        raise ValueError("it has no format number, so it is of no study, or of one saved before there were numbers")
    number = head["format"]
    if type(number) is not int or number != FORMAT:
        newer = type(number) is int and number > FORMAT
        hint = f"; it was saved by fmlab {head.get('fmlab')!r}: update fmlab" if newer else ""
        raise ValueError(f"format = {number!r}, and this fmlab reads format {FORMAT}{hint}")
    shapes: dict[str, Callable[[Any], bool]] = {
        "fmlab": lambda v: isinstance(v, str),
        "methods": lambda v: isinstance(v, list) and bool(v),
        "config": lambda v: isinstance(v, dict),
    }
    for name, fits in shapes.items():
        if not fits(head.get(name)):
            raise ValueError(f"{name} = {_short(head.get(name))} is not what study.save writes")
    return head


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _differences(here: Any, there: Any, where: str = "") -> Iterator[tuple[str, str, str]]:
    """Where two encoded values differ, and both values."""
    if isinstance(here, dict) and isinstance(there, dict) and here.keys() == there.keys():
        for key in here:
            one, other = here[key], there[key]
            inner = where if key in ("config", "fields", "dict", "layers") else f"{where}.{key}".lstrip(".")
            if key == "dict" and [k for k, _ in one] == [k for k, _ in other]:
                one, other = ({str(k): v for k, v in pairs} for pairs in (one, other))
            yield from _differences(one, other, inner)
    elif _tagged(here) and _tagged(there) and len(here) == len(there):
        for i, (one, other) in enumerate(zip(here, there, strict=True)):
            yield from _differences(one, other, f"{where}[{i}]")
    elif json.dumps(here, sort_keys=True) != json.dumps(there, sort_keys=True):
        yield where or "it", _short(here), _short(there)


def _tagged(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, dict) for v in value)


def _taken(given: Any, written: Any) -> Any:
    """What is given, by the name of what was saved wherever JSON does not hold that, so that only the layers of lifted
    modules are compared there. What fmlab itself saves whole, a clip for example, was no such thing."""
    if "missing" in _tags(written) and "missing" in _tags(given):
        return given | {"missing": written["missing"]}
    if "missing" in _tags(written) and _tags(given) == {"class", "fields"} and given["class"] not in CLASSES:
        return written
    if isinstance(given, dict) and isinstance(written, dict) and given.keys() == written.keys():
        return {key: _taken(v, written[key]) for key, v in given.items()}
    if isinstance(given, list) and isinstance(written, list) and len(given) == len(written):
        return [_taken(v, w) for v, w in zip(given, written, strict=True)]
    return given


def _inside(value: Any) -> Iterator[dict[str, Any]]:
    """Every tagged value of an encoded one."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _inside(inner)


def _tags(value: Any) -> set[str]:
    return set(value) if isinstance(value, dict) else set()


def _classes(value: Any) -> Iterator[str]:
    return (str(v["class"]) for v in _inside(value) if "class" in v and "fields" in v)


def _data(value: Any) -> list[dict[str, Any]]:
    """What stands in the place of data."""
    return [v for v in _inside(value) if "sha256" in v and "examples" in v]


def _placeless(value: Any) -> Any:
    """Without where Omniglot's files stand."""
    if isinstance(value, dict) and value.get("class") == name_of(Omniglot):
        return value | {"fields": {k: v for k, v in value["fields"].items() if k not in ("root", "download")}}
    return value


def _find(name: str, own: list[type[Any]]) -> type[Any] | None:
    """fmlab's class; or the reader's, by its full name, else the one that is called so: a notebook's class may have
    moved into a module."""
    if name in CLASSES:
        return CLASSES[name]
    exact = [c for c in own if name_of(c) == name]
    last = name.rpartition(":")[2].rpartition(".")[2]
    found = exact or [c for c in own if c.__name__ == last and not name.startswith("fmlab.")]
    return found[0] if len(found) == 1 else None


def decode(value: Any, known: dict[str, type[Any]], where: str) -> Any:
    """The inverse of ``encode``. Raises ValueError naming the field."""
    if isinstance(value, list):
        return tuple(decode(v, known, where) for v in value)
    if not isinstance(value, dict):
        return value
    if set(value) == {"class", "fields"}:
        return _made(known[value["class"]], value["fields"], known, where)
    if len(value) == 1:
        ((tag, inner),) = value.items()
        if tag == "list" and isinstance(inner, list):
            return [decode(v, known, where) for v in inner]
        if tag == "dict" and isinstance(inner, list):
            return {decode(k, known, where): decode(v, known, f"{where}.{k}") for k, v in inner}
        if tag == "sweep" and isinstance(inner, list) and inner:
            return Sweep(tuple(decode(v, known, where) for v in inner))
        if tag == "validated" and isinstance(found := decode(inner, known, where), float):
            return Validated(found)
        if tag == "dtype" and isinstance(found := getattr(torch, str(inner), None), torch.dtype):
            return found
        if tag == "device" and isinstance(inner, str):
            return torch.device(inner)
        if tag == "path" and isinstance(inner, str):
            return Path(inner)
    raise ValueError(f"{where} = {_short(value)} is not what study.save writes")


def _made(kind: type[Any], given: Any, known: dict[str, type[Any]], where: str) -> Any:
    names = [f.name for f in fields(kind) if f.init] if is_dataclass(kind) else []
    if not isinstance(given, dict) or set(given) != set(names):
        raise ValueError(f"{where}: {kind.__qualname__} has the fields {names}, and the file {sorted(given)}")
    if issubclass(kind, Collection):  # a file makes nobody read another
        raise ValueError(f"{where}: data are not saved with a study; give {where}: fm.load(folder, {where}=...)")
    values = {name: decode(v, known, f"{where}.{name}") for name, v in given.items()}
    if kind is Omniglot:
        values["download"] = False  # a file does not make anybody download
    try:
        return kind(**values)
    except OmniglotError as problem:
        raise ValueError(
            f"{where}: {problem}. Where the drawings stand elsewhere, give the population: "
            "fm.load(folder, clients=fm.Omniglot(root=...))"
        ) from problem
    except (TypeError, ValueError) as problem:
        raise ValueError(f"{where}: {problem}") from problem


def _numpy(dtype: torch.dtype) -> np.dtype[Any]:
    return torch.empty(0, dtype=dtype).numpy().dtype

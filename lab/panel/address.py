"""What the page's address sets: ``...?heterogeneity=0.5&theme=dark&size=projector``, for a link or a QR code.

Under `make app` a kernel belongs to one page, and Voila hands it the query of the page's address. Elsewhere nothing is
asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from typing import Any
from urllib.parse import parse_qsl

SERVER = ("token", "template", "theme")  # names that Voila itself reads; the theme is the panel's, too


def asked() -> dict[str, str]:
    """Name -> text, as the address has them."""
    if not os.environ.get("SERVER_SOFTWARE", "").startswith("voila"):
        return {}
    return dict(parse_qsl(os.environ.get("QUERY_STRING", "")))


def value(text: str) -> Any:
    """A number where it is one."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def over(
    options: Mapping[str, Any], known: Collection[str], check: Callable[[dict[str, Any]], object]
) -> dict[str, Any]:
    """``options`` with what the address asks for in their place. What is not among ``known``, or what ``check`` raises
    ValueError for, is left out, and printed: a page with a wrong address still shows its panel."""
    found = dict(options)
    for name, text in asked().items():
        if name not in known:
            if name not in SERVER:
                print(f"The address asks for {name} = {text}; this panel knows {', '.join(sorted(known))}.")
            continue
        wanted = tuple(text.split(",")) if name == "methods" else value(text)
        try:
            check(found | {name: wanted})
        except ValueError as problem:
            print(f"The address asks for {name} = {text}, which is left out: {problem}.")
        else:
            found[name] = wanted
    return found

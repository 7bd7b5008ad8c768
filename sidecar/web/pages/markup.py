"""Markup that can't be forgotten to escape: a text becomes part of a page as text, only `Html` as it is."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from typing import Any

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
VOID = frozenset({"br", "hr", "img", "input", "link", "meta"})


class Html(str):
    """Markup, made by `tag` or written in our own source; whatever else is a string is text."""

    __slots__ = ()


def tag(name: str, /, *children: Any, **attributes: Any) -> Html:
    """The element ``name``: ``class_="x"`` is its attribute class, ``aria_label=`` aria-label; None leaves one out.

    Children are `Html`, texts, numbers, None (nothing), or iterables of those.
    """
    given = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(_plain(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Html(f"<{name}{given}>" if name in VOID else f"<{name}{given}>{join(children)}</{name}>")


def join(children: Iterable[Any]) -> Html:
    """``children`` one after the other."""
    return Html("".join(map(_one, children)))


def _one(child: Any) -> str:
    if isinstance(child, Html):
        return child
    if child is None:
        return ""
    if isinstance(child, list | tuple):
        return join(child)
    return escape(_plain(child))


def _plain(value: Any) -> str:
    """``value`` as text that a browser takes: NUL and other controls would be parse errors."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", str(value))

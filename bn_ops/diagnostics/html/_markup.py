"""HTML by construction: text is escaped unless this module itself has made it markup."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterable

__all__ = ["Markup", "join", "tag", "visible"]

# Control and format characters (bidirectional overrides among them), surrogates, private use and
# unassigned code points, line and paragraph separators: a name could use them to look like another.
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


class Markup(str):
    """HTML that needs no escaping. Only `tag` and `join` make it."""

    __slots__ = ()


def tag(name: str, *children: str | None, **attributes: str | float | None) -> Markup:
    """Build one element.

    Args:
        name: the element; chosen by our code, never by a model.
        children: texts, which are escaped, and `Markup`, which is not; None is left out.
        attributes: values are escaped, None leaves one out. A trailing underscore is dropped
            (`class_`) and the others become hyphens (`aria_label`).
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{given}>{join(children)}</{name}>")


def join(children: Iterable[str | None]) -> Markup:
    """Put elements and texts one after the other; texts are escaped."""
    return Markup(
        "".join(
            child if isinstance(child, Markup) else _escape(child)
            for child in children
            if child is not None
        )
    )


def visible(text: str) -> str:
    r"""Write invisible characters as escapes such as `\u{202e}`."""
    return "".join(
        f"\\u{{{ord(char):x}}}" if unicodedata.category(char) in _INVISIBLE else char
        for char in text
    )


def _escape(text: str) -> str:
    return html.escape(visible(text), quote=True)

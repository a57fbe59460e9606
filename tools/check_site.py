"""Check a built documentation site: `python -m tools.check_site site`.

Every link leads to a page and an anchor of the site, and no page loads a style sheet, a script, a
font or an image from another host.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

__all__ = ["faults", "main"]

# Attributes that make a browser load something.
_LOADS = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}

# Relations of a link element that load nothing.
_NAMES_ONLY = {"canonical", "prev", "next", "alternate", "edit"}


class _Page(HTMLParser):
    """Collects what a page links to, loads and can be linked by."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.diagrams = 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.anchors.update(value for key in ("id", "name") if (value := known.get(key)))
        if tag == "a" and (target := known.get("href")):
            self.links.append(target)
        # The theme's script draws such elements with a library that it loads.
        self.diagrams += "mermaid" in (known.get("class") or "").split()
        source = known.get(_LOADS.get(tag, ""))
        if source and known.get("rel") not in _NAMES_ONLY:
            self.loads.append(source)


def faults(site: Path) -> list[str]:
    """Return what is wrong with a site, one line each."""
    site = site.resolve()
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        where = path.relative_to(site)
        found += [f"{where} loads {one}" for one in page.loads if urlsplit(one).netloc]
        found += [f"{where} has a diagram that a script would draw"] * (page.diagrams > 0)
        # The page of errors is served at any address, so its links are absolute.
        if where.name != "404.html":
            targets = [*page.links, *page.loads]
            found += [f"{where}: {one}" for one in targets if not _exists(one, path, pages)]
    return found if pages else [f"{site} has no page"]


def _exists(link: str, page: Path, pages: dict[Path, _Page]) -> bool:
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return True
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if target.is_dir():
        target /= "index.html"
    known = pages.get(target)
    if known is None:
        return target.exists()
    anchor = unquote(parts.fragment)
    return not anchor or anchor == "__toc" or anchor in known.anchors


def main(site: Path) -> int:
    """Print the faults of a site; return 1 if there are any."""
    found = faults(site)
    sys.stdout.writelines(f"{one}\n" for one in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

"""The style sheet of the HTML report and the content security policy that goes with it."""

from __future__ import annotations

import base64
import hashlib

__all__ = ["REPORT_CONTENT_SECURITY_POLICY", "REPORT_STYLE"]

REPORT_STYLE = """
:root { color-scheme: light dark;
  --paper: #ffffff; --raised: #f5f6f8; --ink: #1b1f27; --soft: #5a6372; --line: #d9dde4;
  --bar: #2f6fdb; --bar-far: #b9d0f5; --good: #14713a; --good-back: #e3f4e9;
  --bad: #a8201a; --bad-back: #fbe7e6; --warn: #7a4d00; --warn-back: #fdf1d8; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #14171c; --raised: #1d2128; --ink: #e7eaef; --soft: #9aa4b2; --line: #333a45;
  --bar: #6ea0f5; --bar-far: #2c466f; --good: #7fd8a0; --good-back: #16301f;
  --bad: #ff9d96; --bad-back: #3b1a19; --warn: #f0c674; --warn-back: #362a12; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 72rem; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.55rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.1rem; margin: 2.25rem 0 .35rem; }
p { margin: .25rem 0 .75rem; max-width: 62rem; }
.note { color: var(--soft); font-size: .87rem; }
.cards { display: grid; gap: .75rem; margin: 1.25rem 0 0; padding: 0;
  grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); }
.card { background: var(--raised); border: 1px solid var(--line); border-radius: .5rem;
  padding: .65rem .8rem; }
.card dt { color: var(--soft); font-size: .8rem; }
.card dd { margin: 0; font-size: 1.25rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.card dd.sub { font-size: .8rem; font-weight: 400; color: var(--soft); overflow-wrap: anywhere; }
.good { color: var(--good); } .bad { color: var(--bad); }
.badge { display: inline-block; padding: 0 .45em; border-radius: .35em; font-size: .82rem;
  white-space: nowrap; background: var(--raised); border: 1px solid var(--line); }
.badge.good { background: var(--good-back); border-color: transparent; }
.badge.bad { background: var(--bad-back); border-color: transparent; }
.badge.warn { background: var(--warn-back); color: var(--warn); border-color: transparent; }
.warnings { margin: .5rem 0 0; padding: .6rem .8rem .6rem 1.9rem; border-radius: .5rem;
  background: var(--warn-back); color: var(--warn); overflow-wrap: anywhere; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: .5rem; }
table { border-collapse: collapse; width: 100%; font-size: .87rem;
  font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { background: var(--raised); font-weight: 600; vertical-align: bottom; }
tbody tr:last-child td, tbody tr:last-child th { border-bottom: 0; }
th.n, td.n { text-align: right; white-space: nowrap; }
td.name { min-width: 9rem; max-width: 24rem; overflow-wrap: anywhere; }
td.name, code { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .82rem; }
.figures { white-space: nowrap; }
code { overflow-wrap: anywhere; }
svg.bar { display: block; margin-top: .3rem; }
svg.bar .far { fill: var(--bar-far); } svg.bar .near { fill: var(--bar); }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; }
.key.near { background: var(--bar); } .key.far { background: var(--bar-far); }
details { margin: .5rem 0; } summary { cursor: pointer; }
details[open] summary { margin-bottom: .5rem; }
@media print { body { max-width: none; padding: 0; } .scroll { overflow: visible; } }
"""

_STYLE_DIGEST = base64.b64encode(hashlib.sha256(REPORT_STYLE.encode()).digest()).decode()

# Nothing is loaded, run, framed or sent; the one style sheet is allowed by its digest, so that
# markup which slipped through could not even restyle the page. For the header of the response.
REPORT_CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_DIGEST}'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)

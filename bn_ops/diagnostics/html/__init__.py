"""The report as one self-contained HTML page: no scripts, no requests, light and dark.

Layer names, output names, patterns and reasons come from the model and are untrusted. Jinja escapes
every value of the templates, after `visible` has replaced invisible characters and bounded the
length. Serve the page with `REPORT_CONTENT_SECURITY_POLICY`.
"""

from __future__ import annotations

from bn_ops.diagnostics.html.render import REPORT_CONTENT_SECURITY_POLICY, render_html

__all__ = ["REPORT_CONTENT_SECURITY_POLICY", "render_html"]

"""The report as one self-contained HTML page: no script, no request, light and dark.

Layer names, output names, patterns and reasons come from the model, so from whoever made it. They
become text through `_markup`, which escapes everything that it has not made itself. Serve the page
with `REPORT_CONTENT_SECURITY_POLICY`.
"""

from __future__ import annotations

from bn_ops.diagnostics.html._page import render_html
from bn_ops.diagnostics.html._style import REPORT_CONTENT_SECURITY_POLICY

__all__ = ["REPORT_CONTENT_SECURITY_POLICY", "render_html"]

"""A diff as one page for a browser: a picture of what happened, to be clicked through.

The page is one file.  It fetches nothing, and a content security policy keeps
it so: only the script and the style that it ships may act, whatever names a
trace has in it.
"""

from spfreplay.report.html.page import LIMIT, page

__all__ = ["LIMIT", "page"]

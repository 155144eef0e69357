"""How Sphinx builds these pages; ``make docs`` does it, with every warning an error."""

project = "MetaSelect"
author = "MetaSelect contributors"
extensions = ["myst_parser"]
nitpicky = True
smartquotes = False  # it would make dashes of the -- before an option

# A link such as page.md#a-heading is checked against the headings of the page.
myst_heading_anchors = 3

html_theme = "furo"
html_title = "MetaSelect"
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False
# The pages are read from a disk: a summary of each search result would be fetched, which a browser refuses there.
html_show_search_summary = False

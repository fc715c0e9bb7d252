"""A book in Sphinx, for whichever theme it is built with."""

project = "A Small Book of Robots"
html_js_files = [("http://widget.invalid/widget.js", {"type": "module"})]

"""What is shown of a run: numbers as JSON and as tables, plots, stills, overlay videos, HTML pages.

Needs the extra ``report`` (matplotlib, jinja2). Everything here takes values that were measured elsewhere.
"""

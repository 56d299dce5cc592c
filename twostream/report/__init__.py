"""The result: tables, files and a page."""

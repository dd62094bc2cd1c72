"""Reports: one table of success, drawn for terminals, as Markdown and on HTML pages."""

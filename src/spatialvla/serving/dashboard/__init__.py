"""A web page for whoever watches a served policy, and tries it by hand."""

"""Results: what was asked for and what came out, as files, with intervals and comparisons."""

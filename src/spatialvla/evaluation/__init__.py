"""Success rates: benchmarks and their rules, playing them, what came out, and pages of it."""

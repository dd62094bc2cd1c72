"""Success rates: benchmarks played by their rules, results stored with what decided them, and pages of both."""

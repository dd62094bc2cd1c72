"""What every room may use: files, JSON and YAML, caches, settings of the process."""

"""Demonstrations: episodes of every format in one form, mixtures of datasets, and the loader of samples."""

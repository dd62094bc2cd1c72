"""Triton kernels for few rows on a GPU: what a decode step does, in one launch for each product."""

"""Operators of our own in C++, for CPUs with AVX-512, BF16 and VNNI."""

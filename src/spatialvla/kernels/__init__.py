"""Operators for a CPU with AVX-512, BF16 and VNNI, written in C++."""

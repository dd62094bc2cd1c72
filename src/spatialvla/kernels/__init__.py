"""Our own operators for a CPU with AVX-512, BF16 and VNNI, in C++ (docs/performance.md says what they gain)."""

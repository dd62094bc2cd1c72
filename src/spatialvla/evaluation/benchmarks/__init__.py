"""The benchmarks: each one's rules as data, and its tasks as environments that a policy's actions step."""

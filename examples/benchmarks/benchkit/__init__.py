"""What the benchmarks share: a private server, contender processes, counts and tables."""

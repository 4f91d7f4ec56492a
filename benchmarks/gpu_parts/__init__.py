"""What `benchmarks/gpu.py` runs, one part a file."""

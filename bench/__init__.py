"""Benchmarks: hqfkernels against what an expert would write in plain torch, as ratios measured in one run."""

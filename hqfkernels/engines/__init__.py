"""Engines: the algorithms that evaluate a circuit on a batch. The operators they call are in `hqfkernels.ops`."""

"""NumPy twins of the kernels: the formula, one step per line, computed in the precision `dtype`."""

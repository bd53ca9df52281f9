"""NumPy twins of the kernels: the formula, a line a step. `dtype` says in which precision it is computed."""

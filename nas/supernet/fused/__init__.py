"""The fast path of a mixture: op weights folded into layers, and layers that run as one."""

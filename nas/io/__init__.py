"""Files, processes, random numbers and errors: what imports nothing of ours."""

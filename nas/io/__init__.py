"""Files, processes, random numbers and errors; imports no other package of ours."""

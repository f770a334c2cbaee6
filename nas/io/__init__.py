"""Files, processes, random numbers and errors. Imports no other package of the framework."""

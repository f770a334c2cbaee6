"""TensorBoard with the settings that the pages of runs need, and reports in one file."""

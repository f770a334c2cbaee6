"""Reports in one file, and TensorBoard with the options that runs need."""

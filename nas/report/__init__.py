"""Looking at runs: TensorBoard with the settings that their pages need, and reports in one file."""

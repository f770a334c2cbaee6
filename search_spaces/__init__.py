"""Ready-made search spaces, one file each."""

"""What an operator does to a whole installation once: load a file, take the pipeline away."""

"""What an operator does once to a whole installation: import a file, remove the pipeline."""

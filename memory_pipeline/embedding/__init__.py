"""Text to vectors: models, a cache, and how a model's files are had."""

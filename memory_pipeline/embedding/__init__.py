"""Text to vectors: the embedders, a cache, and the download of the model's files."""

"""From a memory to the content of its document: text, metadata and hash. No I/O."""

"""What a memory means as a document: its text, metadata and hash. No I/O."""

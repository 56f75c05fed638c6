"""The frozen base: find it by name, say what it is, load it, and turn prompts into embeddings."""

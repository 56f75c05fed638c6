"""The runtime: one loaded pipeline, any composition of adapters on it, pictures with their records."""

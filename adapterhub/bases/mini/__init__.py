"""The bundled mini base: SDXL's topology, small enough for two CPU cores; it lies in `weights/`."""

"""Dialects of adapter files on disk, read to and written from the canonical form of `adapterhub.lora`."""

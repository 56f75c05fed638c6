"""The gallery: pages of the registry for people with a browser."""

"""The registry of adapters: what they are, where their files lie, and how they travel.

This package never imports torch: a registry runs from the slim install.
"""

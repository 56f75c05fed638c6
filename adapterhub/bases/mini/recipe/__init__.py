"""The recipe that makes the mini base, stage by stage; see README.md in this folder.

Nothing else in the project imports it.
"""

"""The registry for a team: one process that speaks HTTP, over the same store."""

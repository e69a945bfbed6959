"""The actor system that runs workflows."""

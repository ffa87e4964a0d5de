"""Publish and pull: trees between this disk and object storage, through the index."""

"""Manifests, splits, images, and one reader a format."""

"""Find where domain shift enters a segmentation network."""

"""Files, grids, slices, vocabulary and synthetic MRI."""

"""Everything that goes out, and comes in again: label maps, segmentations, meshes, measures."""

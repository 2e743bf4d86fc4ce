"""SegOne: text tower, network of 1-D convolutions, noise schedule, checkpoint folders."""

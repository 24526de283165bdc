"""A stream of frames: segmented, adapted to, and remembered."""

"""Sources of video frames behind one interface."""

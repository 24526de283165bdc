"""DiTTA (Distillation-assisted Test-Time Adaptation) for live video. Plain Python and torch; knows nothing of ROS."""

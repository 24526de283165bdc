"""When the camera has left the scene that the model was adapted to."""

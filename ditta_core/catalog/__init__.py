"""What can be loaded here: models, teachers, checkpoints."""

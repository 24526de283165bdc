"""Teachers: how the targets of the warm-up are made."""

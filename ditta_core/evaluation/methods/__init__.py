"""Ways to segment a video behind one interface: DiTTA in its variants, and what it has to beat."""

"""The ground of everything that starts or spins."""

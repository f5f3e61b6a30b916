"""Settings of the whole suite."""

from hypothesis import settings

# On shared cores a single example may wait for a processor; speed is measured in benchmarks/, not here.
settings.register_profile("shared cores", deadline=None, print_blob=True)
settings.load_profile("shared cores")

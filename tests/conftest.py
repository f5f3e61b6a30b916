"""Settings of the whole suite."""

import os

from hypothesis import settings

# On shared cores a single example may wait for a processor; speed is measured in benchmarks/, not here.
# What guards main judges the change, not the dice: there the examples are the same every time.
settings.register_profile("shared cores", deadline=None, print_blob=True, derandomize="CI" in os.environ)
settings.load_profile("shared cores")

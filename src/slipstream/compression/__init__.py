"""A trained model made small."""

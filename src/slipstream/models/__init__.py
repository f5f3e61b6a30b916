"""What guesses. Read `recommender.py` first."""

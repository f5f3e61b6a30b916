"""How good was it, and what did it cost: metrics, intervals, trials and reports."""

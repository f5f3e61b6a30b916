"""Run a released model without its training framework."""

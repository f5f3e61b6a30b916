"""A guess becomes an answer: rules, ranking, reasons, and the release that is served."""

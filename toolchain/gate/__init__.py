"""The gate of a pipeline: [[budget]] → limits → figures of today → verdicts → a format, each a value."""

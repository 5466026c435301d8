"""jettison: trained networks made small, fast and explainable enough to fly."""

__version__ = "0.1.0"

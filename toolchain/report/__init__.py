"""The report: one self-contained page from report.json."""

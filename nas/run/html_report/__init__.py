"""The HTML report of a run: `report.html`, one file with everything in it that a browser needs."""

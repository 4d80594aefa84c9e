"""The persistent record of a run: study, journal and databases, and the lease of the one driver that writes."""

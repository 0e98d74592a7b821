"""Compare the runs of a study and write a report."""

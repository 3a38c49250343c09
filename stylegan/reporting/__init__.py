"""From notebooks to a report, and from a run to a generator for others."""

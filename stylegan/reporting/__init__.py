"""From executed notebooks to one page."""

"""From raw files to slices with subjects and labels."""

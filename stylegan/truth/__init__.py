"""What generated slices mean: classes, levels and tissue read from them, and both kinds of slices on one map."""

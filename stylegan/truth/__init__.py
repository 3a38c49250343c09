"""What generated slices mean: classes, levels and tissue read from them and beside real ones on one map."""

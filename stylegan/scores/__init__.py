"""How far generated slices lie from real ones, and whether they copy: scores beside their floor, and the verdict."""

"""Systems trained side by side: the runs, their scores, the claims decided, and what the two papers differ in."""

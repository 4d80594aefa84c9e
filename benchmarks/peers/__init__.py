"""Other systems on the same tasks: programs as their users would write them, and the comparison with searches."""

"""One way to build a run, to repeat it and to say what it counted."""

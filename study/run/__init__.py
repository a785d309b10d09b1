"""How a trial is run, where, and by which processes."""

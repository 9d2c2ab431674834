"""`exptilt plan`: the memory and time of a run before anything is spent."""

"""Planning: a run's memory and time, counted, looked up or rehearsed."""

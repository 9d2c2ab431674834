"""A run folder as one page: figures, numbers with intervals, a verdict in words. Reads files; never imports torch."""

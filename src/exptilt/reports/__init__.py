"""A run folder as one page: figures, numbers with intervals, a conclusion in words. Reads files; never imports torch."""

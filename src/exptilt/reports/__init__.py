"""The report of a run folder as one page: figures, numbers with intervals, a conclusion in words. It never imports torch."""

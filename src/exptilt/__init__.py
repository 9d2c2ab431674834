"""exptilt: tilt a model toward what people prefer, and show how far it is from the best that could be reached."""

import os

__version__ = "0.1.0"

# torch reads this at its first allocation: huge pages where the system grants them on request. Large tensors come and go
# with every step, and on a CPU the faults of their small pages cost more than much of what is done with them.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

"""exptilt: tilt a model toward what people prefer, and show how far it is from the best that could be reached."""

import os

__version__ = "0.1.0"

# torch reads this at its first allocation: huge pages where the system grants them on request. Large tensors come and go
# with every step, and on a CPU the faults of their small pages cost more than much of what is done with them.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
# oneDNN keeps the code it makes for each shape of a product, 1024 by default. Packed rows have new shapes in every step, so
# most of that code is not used again, and a tiny model's memory grew with every step.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")

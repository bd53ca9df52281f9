"""Training of models that use memory: data with memory, as published recipes prepare it. Needs torch."""

from mosaicmem.models.training.encoded_sequence import EncodedSequence
from mosaicmem.models.training.memory_policy import MemoryPolicy
from mosaicmem.models.training.revisits import RevisitDataset

__all__ = ["EncodedSequence", "MemoryPolicy", "RevisitDataset"]

"""etastar measures the maximal initial learning rate η* of a neural network."""

__version__ = "0.1.0"

"""Learning: batches, the training loop, callbacks, checkpoints."""

from mlmd.learn.callbacks import Average, Checkpoint, ClipGradient, EarlyStop
from mlmd.learn.fit import Loop, cosine, fit, minibatch

__all__ = ["Average", "Checkpoint", "ClipGradient", "EarlyStop", "Loop", "cosine", "fit", "minibatch"]

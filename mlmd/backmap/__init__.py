"""From beads back to atoms: generative backmapping and the measures of its quality."""

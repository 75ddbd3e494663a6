"""The cluster engine: one remote object per training, in the words of the operator that is there."""

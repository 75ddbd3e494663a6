"""Training of a network on several ranks: on this machine, or as a TrainJob or PyTorchJob on a cluster."""

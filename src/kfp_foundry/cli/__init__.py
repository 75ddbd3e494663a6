"""The command `kfp-foundry`."""

"""What runs leave behind and where: folders, object stores, metrics, names of checkpoints."""

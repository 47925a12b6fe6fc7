"""Combined indexes: collections merged into versions that hold no dead row."""

"""Programs that do the same with fewer equations."""

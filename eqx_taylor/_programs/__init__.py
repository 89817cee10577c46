"""Programs as data: counted, plotted, simplified."""

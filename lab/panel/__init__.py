"""The live panels: ``session`` computes and knows no widget, ``panel`` joins it to controls and pictures."""

"""The napari plugin: the only place that knows Qt, napari and its axis order."""

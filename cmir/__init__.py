"""cmir searches earth-observation archives across sensors and by voice."""

__version__ = "0.1.0"

"""The one error that calibration raises on bad files, bad signals and bad robots."""


class CalibrationError(ValueError):
    """Says what came, what was expected and what to do."""

"""Classification metrics, confidence intervals and calibration."""

"""Networks whose weights are kept in 4 bits: rounded, calibrated, saved and loaded."""

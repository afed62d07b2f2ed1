"""What happens around training: reports, validation, logs."""

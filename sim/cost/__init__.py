"""What one iteration computed, and how long that takes on a device."""

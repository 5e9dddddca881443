"""task=run: requests served by a real model."""

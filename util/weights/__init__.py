"""Reading weights from files, and loading them into models."""

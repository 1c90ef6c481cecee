"""Between files and models."""

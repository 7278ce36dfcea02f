"""Task formats, one importer per file."""

"""Foreign dataset forms, one reader each: ``read(folder) -> Dataset``."""

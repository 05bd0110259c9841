"""One reader a raw format: a function ``read(files, **options) -> RawTensor``."""

"""Container images: what each one contains, and how to build one without a container engine."""

"""A small-image ResNet in pure JAX: `fit(config, load_dataset(name), workdir)`; see the README."""

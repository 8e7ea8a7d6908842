"""What is measured: rankings of a gallery by its queries, the figures of each direction, and the report of them."""

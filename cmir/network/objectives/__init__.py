"""What a training step minimises: `contrastive` is this project's objective."""

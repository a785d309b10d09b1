"""Where images and annotations come from, and batches as pure functions of (seed, iteration)."""
